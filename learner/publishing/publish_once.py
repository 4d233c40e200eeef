"""Publication of one version: of a policy in training, of an adapted policy, or of any module by its spaces."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from gymnasium import spaces
from torch import Tensor, nn

from learner.export.policy_export import PolicyExporter
from learner.export.spaces_policy import SpacesPolicy
from shared.engines.eager import module_tensors
from shared.errors import ConfigurationError, one_line
from shared.policy.manifest import WEIGHTS_FILE, Manifest, TrainingProgress
from shared.policy.signature import PolicySignature
from shared.policy.signing import SigningKey, signing_key_of
from shared.policy.spaces import action_spec, observation_leaves
from shared.store.policy_store import PolicyStore, open_store
from shared.store.version_files import Sign


class PublishOptions(TypedDict, total=False):
    """Keywords of ``publish_policy`` that say how a version is published.

    ``env_id`` is written into the manifest. ``aot`` also compiles native code (15 to 40 s). ``signing_key``, or the
    path of its file, signs the version for agents that have its public key.
    """

    env_id: str | None
    aot: bool
    signing_key: SigningKey | str | Path | None


@dataclass(frozen=True)
class VersionOrigin:
    """The run that publishes a version, and the environment that the policy acts in."""

    run_id: str = "export"
    env_id: str | None = None


def publish_policy(
    module: nn.Module,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    store: PolicyStore | str | Path,
    *,
    state: Any = None,
    masked: bool = False,
    outputs: Sequence[str] | None = None,
    **options: Unpack[PublishOptions],
) -> Manifest:
    """Publish ``module`` as the newest policy of ``store``, and return the manifest of that version.

    A module with a ``signature`` follows the policy contract and is published as it is. Any other is wrapped in a
    ``SpacesPolicy``, which defines its arguments and results.

    Args:
        module: The policy. It is copied, not changed.
        observation_space: The environment's observation space.
        action_space: The environment's action space.
        store: The policy store, its directory or its URL.
        state: An example of the recurrent state: float32 tensors ``[1, ...]`` nested in any way.
        masked: True when the module takes an action mask as its last argument.
        outputs: The names of the items that the module returns as a tuple or list.
        **options: See ``PublishOptions``.

    Raises:
        ConfigurationError: The spaces are not those of the policy's signature.
        ExportError: No program equals the module; the message names each method's reason.
        StoreError: The store failed.
    """
    signature = getattr(module, "signature", None)
    if not isinstance(signature, PolicySignature):
        policy = SpacesPolicy(module, observation_space, action_space, state=state, masked=masked, outputs=outputs)
        module, signature = policy, policy.signature
    for given, own in (
        (observation_leaves(observation_space), signature.observation),
        (action_spec(action_space), signature.action),
    ):
        if given != own:
            raise ConfigurationError(
                "pass the environment's own spaces: "
                f"expected {one_line(given, 100)}, the policy acts in {one_line(own, 100)}"
            )
    opened = open_store(store) if isinstance(store, str | Path) else store
    return publish_once(module, signature, opened, **options)


def publish_once(
    module: nn.Module,
    signature: PolicySignature,
    store: PolicyStore,
    *,
    env_id: str | None = None,
    onnx: bool = True,
    aot: bool = False,
    signing_key: SigningKey | str | Path | None = None,
) -> Manifest:
    """Export a module that follows the policy contract and publish it as the newest version of ``store``.

    Old versions stay. Raises ExportError if no program equals the module, StoreError if the store fails.
    """
    key = signing_key_of(signing_key)
    return publish_version(
        PolicyExporter(module, signature, onnx=onnx, aot=aot),
        module_tensors(module),
        store,
        VersionOrigin(env_id=env_id),
        sign=None if key is None else key.sign,
    )


def publish_version(
    exporter: PolicyExporter,
    weights: Mapping[str, Tensor],
    store: PolicyStore,
    origin: VersionOrigin,
    *,
    training: TrainingProgress | None = None,
    durable: bool = True,
    sign: Sign | None = None,
) -> Manifest:
    """Publish ``weights`` with the programs of ``exporter``, and return the manifest."""
    files, programs, probe = exporter.files(weights)
    return store.publish(
        files,
        lambda version, entries: Manifest(
            version=version,
            run_id=origin.run_id,
            env_id=origin.env_id,
            created_unix_s=time.time(),
            signature=exporter.signature,
            programs=programs,
            files=entries,
            weights=WEIGHTS_FILE,
            probe=probe,
            export=exporter.reports,
            training=training or TrainingProgress(),
        ),
        durable=durable,
        sign=sign,
    )
