"""Real policies in real stores, made fast: one export for each kind of policy and test process, then only new weights."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from learner.acting_policy import ActingPolicy
from learner.config import NetworkConfig
from learner.policy_export import PROBE_FILE, WEIGHTS_FILE, PolicyExporter
from shared.manifest import FileEntry, Manifest
from shared.policy_store import LocalPolicyStore, PolicyStore
from shared.spaces import ActionSpec, ObservationLeaf

VECTOR = (ObservationLeaf((), "box", "float32", (4,)),)
NESTED = (
    ObservationLeaf(("camera", 0), "image", "uint8", (8, 8, 1)),
    ObservationLeaf(("speed",), "box", "float32", (3,)),
)
ACTIONS = {
    "discrete": ActionSpec("discrete", "int64", (), (3,), (0,)),
    "discrete_from_5": ActionSpec("discrete", "int64", (), (3,), (5,)),
    "multi_discrete": ActionSpec("multi_discrete", "int64", (2,), (3, 2), (0, 0)),
    "multi_binary": ActionSpec("multi_binary", "int8", (3,)),
    "box": ActionSpec("box", "float32", (2,), low=(-1.0, None), high=(1.0, None)),
}


def make_policy(
    *, action: str = "discrete", nested: bool = False, network: str = "mlp", masked: bool = False, seed: int = 0
) -> ActingPolicy:
    """A small untrained policy; policies that differ in ``seed`` alone have the same program."""
    config = NetworkConfig(kind=network, hidden_sizes=(8,), lstm_size=4)
    generator = torch.Generator().manual_seed(seed)
    policy = ActingPolicy(NESTED if nested else VECTOR, ACTIONS[action], config, masked, generator)
    with torch.no_grad():  # fresh heads are nearly uniform: then every version would act alike
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
    return policy.eval()


@functools.cache
def exporter(
    *, action: str = "discrete", nested: bool = False, network: str = "mlp", masked: bool = False, onnx: bool = False
) -> PolicyExporter:
    """The programs of ``make_policy``'s policies. With ``onnx`` it takes seconds, once."""
    policy = make_policy(action=action, nested=nested, network=network, masked=masked)
    return PolicyExporter(policy, policy.signature, onnx=onnx)


def publish(
    store: PolicyStore,
    policy: ActingPolicy,
    made_by: PolicyExporter,
    *,
    instead: Mapping[str, bytes] | None = None,
    **fields: object,
) -> Manifest:
    """Publish ``policy``; files ``instead`` of the right ones and other manifest ``fields`` make versions that are wrong."""
    files, programs, probe = made_by.files(policy.state_dict())
    files.update(instead or {})

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        described = {"signature": policy.signature, "programs": programs, "probe": probe, **fields}
        return Manifest(
            version=version,
            run_id="run",
            env_id=None,
            created_unix_s=time.time(),
            files=entries,
            weights=WEIGHTS_FILE,
            **described,  # type: ignore[arg-type]
        )

    return store.publish(files, describe)


def publish_seed(store: PolicyStore, seed: int, *, onnx: bool = False, **kind: object) -> Manifest:
    """Publish the policy of ``make_policy(seed=seed, **kind)``."""
    return publish(store, make_policy(seed=seed, **kind), exporter(onnx=onnx, **kind))  # type: ignore[arg-type]


def expected_actions(policy: ActingPolicy, observation: np.ndarray) -> np.ndarray:
    """What ``policy`` does without noise, recurrent state or mask."""
    noise = np.zeros((len(observation), *policy.signature.action.noise_shape), np.float32)
    with torch.no_grad():
        return policy([torch.from_numpy(observation), torch.from_numpy(noise)])[0].numpy()


def local_store(path: Path) -> LocalPolicyStore:
    """A store that does not wait for the disk."""
    return LocalPolicyStore(path, fsync=False)


__all__ = [
    "PROBE_FILE",
    "WEIGHTS_FILE",
    "exporter",
    "expected_actions",
    "local_store",
    "make_policy",
    "publish",
    "publish_seed",
]
