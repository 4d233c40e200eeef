"""Versions made beforehand: what is measured is how they are published and adopted, not how they are made.

A prepared is a policy store that nobody watches. Whoever publishes from it needs no torch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared.policy.manifest import FileEntry, Manifest, ProbeEntry, ProgramEntry
from shared.store.policy_store import LocalPolicyStore, PolicyStore

if TYPE_CHECKING:
    from torch import Tensor

    from learner.networks.acting_policy import ActingPolicy

ENV_ID = "CartPole-v1"
SMALL = (64, 64)
LARGE = (1600,) * 11
"""Hidden sizes of a network of 103 MB."""

_MadeFiles = tuple[dict[str, bytes], tuple[ProgramEntry, ...], ProbeEntry]
_MakeFiles = Callable[[Mapping[str, "Tensor"]], _MadeFiles]


@dataclass(frozen=True)
class PreparedVersion:
    """The files of one version in memory, and its manifest under the prepared's own number."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def publish(self, store: PolicyStore) -> Manifest:
        """Commit it as the newest version of ``store``, as a learner's publisher does."""
        return store.publish(self.files, self._describe, durable=False)

    def _describe(self, version: int, entries: dict[str, FileEntry]) -> Manifest:
        return msgspec.structs.replace(self.manifest, version=version, files=entries, created_unix_s=time.time())


def read_prepared_versions(path: Path) -> list[PreparedVersion]:
    """Everything that lies there."""
    prepared = LocalPolicyStore(path)
    opened = [prepared.open(version) for version in prepared.versions()]
    return [PreparedVersion(one.manifest, {name: one.read(name) for name in one.manifest.files}) for one in opened]


def prepare_versions(
    path: Path, *, versions: int, change: float, hidden_sizes: tuple[int, ...] = SMALL, onnx_alone: bool = False
) -> Manifest:
    """Untrained policies for CartPole, each changed in every weight; returns the manifest of the last.

    They are exported as a learner exports them; ``onnx_alone`` leaves TorchScript out, and the proof that the programs
    are equal, so that large networks take no minutes. ``change``: the standard deviation of the change of each tensor,
    over its own. Two hidden layers make two networks, policy and value, as in training; other numbers make one. Imports
    torch.
    """
    import torch

    from learner.export.policy_export import PolicyExporter
    from learner.networks.acting_policy import ActingPolicy
    from learner.networks.network_config import Activation, NetworkConfig
    from shared.engines.eager import module_tensors
    from shared.policy.manifest import WEIGHTS_FILE
    from shared.run.environment_description import describe_environment

    assert versions > 0
    environment = describe_environment(ENV_ID)
    is_small = hidden_sizes == SMALL
    activation: Activation = "tanh" if is_small else "relu"  # tanh of untrained layers lets rounding grow with depth
    network = NetworkConfig(hidden_sizes=hidden_sizes, shared_trunk=not is_small, activation=activation)
    generator = torch.Generator().manual_seed(0)
    policy = ActingPolicy(environment.leaves, environment.action, network, environment.masked, generator).eval()
    make_files = _onnx_files(policy) if onnx_alone else PolicyExporter(policy, policy.signature).files
    first = {name: tensor.clone() for name, tensor in module_tensors(policy).items()}
    for _ in range(versions):
        files, programs, probe = make_files(
            {
                name: tensor + change * _spread(tensor) * torch.randn(tensor.shape, generator=generator)
                for name, tensor in first.items()
            }
        )
        manifest = Manifest(
            version=0,
            run_id="benchmark",
            env_id=ENV_ID,
            created_unix_s=0.0,
            signature=policy.signature,
            programs=programs,
            files={},
            weights=WEIGHTS_FILE,
            probe=probe,
        )
        manifest = PreparedVersion(manifest, files).publish(LocalPolicyStore(path))
    return manifest


def _onnx_files(policy: "ActingPolicy") -> _MakeFiles:
    from learner.export.export_copy import copy_for_export
    from learner.export.onnx_export import export_onnx
    from shared.engines.eager import module_tensors
    from shared.policy.manifest import ONNX_FILE, PROBE_FILE, WEIGHTS_FILE
    from shared.policy.probe import PROBE_ATOL, PROBE_RTOL, compute_probe, encode_probe
    from shared.policy.program_digest import onnx_program_digest
    from shared.policy.weights import encode_weights, tensor_places

    tensors = module_tensors(policy)
    places = tensor_places(encode_weights({name: tensor.numpy() for name, tensor in tensors.items()}))
    graph = export_onnx(copy_for_export(policy), policy.signature, places, WEIGHTS_FILE)

    def make_files(weights: Mapping[str, "Tensor"]) -> _MadeFiles:
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])
        files = {
            WEIGHTS_FILE: encode_weights({name: tensor.numpy() for name, tensor in tensors.items()}),
            PROBE_FILE: encode_probe(compute_probe(policy, policy.signature), policy.signature),
            ONNX_FILE: graph,
        }
        programs = (ProgramEntry("onnx", ONNX_FILE, onnx_program_digest(graph)),)
        return files, programs, ProbeEntry(PROBE_FILE, PROBE_ATOL, PROBE_RTOL)

    return make_files


def _spread(tensor: "Tensor") -> float:
    """The standard deviation of its numbers; 1 for biases, which begin as zeros, and for single numbers."""
    return float(tensor.std()) or 1.0 if tensor.numel() > 1 else 1.0
