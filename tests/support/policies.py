"""Policies of every kind that the engines run, and the versions that an exporter makes of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.policy.manifest import WEIGHTS_FILE, Manifest
from shared.policy.spaces import action_spec, observation_leaves
from shared.store.version_files import describe_files

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
NESTED = spaces.Dict(
    {
        "camera": IMAGE,
        "body": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2, 3), np.float64), spaces.Discrete(5, start=-1))),
        "contact": spaces.MultiBinary(3),
        "gear": spaces.MultiDiscrete([3, 2]),
    }
)

SENSORS = spaces.Dict(
    {
        "camera": IMAGE,
        "speed": spaces.Box(-1, 1, (3,), np.float32),
        "arm": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2, 2), np.float32), spaces.Discrete(4))),
    }
)
TUPLE = spaces.Tuple((spaces.MultiDiscrete([3, 2]), spaces.Box(-5, 5, (4,), np.float32)))

_LARGE_CLIP = spaces.Box(np.array([-1, -np.inf, 0], np.float32), np.array([1, np.inf, 2], np.float32), dtype=np.float32)

CASES: dict[str, tuple[spaces.Space, spaces.Space, NetworkConfig, bool]] = {
    "vector, discrete": (VECTOR, spaces.Discrete(3), NetworkConfig(hidden_sizes=(32,), shared_trunk=True), False),
    "image, gru, masked multi-discrete": (IMAGE, spaces.MultiDiscrete([3, 4]), NetworkConfig("gru", (32,), 16), True),
    "nested, clipped box": (
        NESTED,
        _LARGE_CLIP,
        NetworkConfig(hidden_sizes=(32,), shared_trunk=True, normalize_observations=True),
        False,
    ),
    "recurrent, multi-binary": (VECTOR, spaces.MultiBinary([2, 3]), NetworkConfig("lstm", (32,), 16), False),
    "sensors, lstm, masked discrete": (
        SENSORS,
        spaces.Discrete(6, start=2),
        NetworkConfig("lstm", (32,), 16, normalize_observations=True),
        True,
    ),
    "vector, float64 box": (VECTOR, spaces.Box(-1, 1, (2,), np.float64), NetworkConfig(), False),
}


REPRESENTATIVES = ("vector, discrete", "image, gru, masked multi-discrete", "sensors, lstm, masked discrete")
"""Cases for engines that compile for many seconds: the last has nested observation, recurrent state and a mask."""


class Combination(NamedTuple):
    """One choice for each property in which policies differ."""

    observation: str
    network: str
    action: str
    masked: bool
    normalized: bool


WAYS: Mapping[str, Sequence[Any]] = {
    "observation": ("vector", "image", "dict", "tuple"),
    "network": ("shared mlp", "separate mlp", "lstm", "gru"),
    "action": ("discrete", "multi-discrete", "multi-binary", "box"),
    "masked": (False, True),
    "normalized": (False, True),
}


def _combinations() -> Iterator[Combination]:
    for i, observation in enumerate(WAYS["observation"]):
        for j, network in enumerate(WAYS["network"]):
            k = (i + j) % 4  # a Latin square: each observation and each network meets each action
            yield Combination(observation, network, WAYS["action"][k], k == 1 and i < 2, (i // 2 + j) % 2 == 1)
    yield Combination("vector", "gru", "discrete", True, False)
    yield Combination("image", "separate mlp", "discrete", True, True)
    yield Combination("dict", "shared mlp", "discrete", True, False)
    yield Combination("tuple", "lstm", "discrete", True, True)


def _case(combination: Combination) -> tuple[spaces.Space, spaces.Space, NetworkConfig, bool]:
    observation = {"vector": VECTOR, "image": IMAGE, "dict": SENSORS, "tuple": TUPLE}[combination.observation]
    action = {
        "discrete": spaces.Discrete(5, start=3),
        "multi-discrete": spaces.MultiDiscrete([3, 4]),
        "multi-binary": spaces.MultiBinary([2, 3]),
        "box": _LARGE_CLIP,
    }[combination.action]
    kind = combination.network if combination.network in ("lstm", "gru") else "mlp"
    network = NetworkConfig(
        kind,  # type: ignore[arg-type]
        (24,),
        12,
        shared_trunk=combination.network != "separate mlp",
        normalize_observations=combination.normalized,
    )
    return observation, action, network, combination.masked


COMBINATIONS = {", ".join((*c[:3], *["masked"] * c.masked, *["normalized"] * c.normalized)): c for c in _combinations()}
"""Every two choices of different properties occur together, but for masks of actions without masks."""


def make_policy(case: str, seed: int = 0) -> ActingPolicy:
    """A policy, of CASES or COMBINATIONS, with weights that let its actions differ: fresh ones are nearly uniform."""
    observation, action, network, masked = CASES[case] if case in CASES else _case(COMBINATIONS[case])
    torch.manual_seed(seed)
    policy = ActingPolicy(observation_leaves(observation), action_spec(action), network, masked)
    return stirred(policy, seed)


def stirred(policy: ActingPolicy, seed: int) -> ActingPolicy:
    """Change every parameter and every running moment in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, (*policy.parameters(), *policy.buffers())):
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return policy


@dataclass(frozen=True)
class MadeVersion:
    """A version in memory."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def read(self, name: str) -> bytes:
        return self.files[name]


def make_version(exporter: PolicyExporter, weights: Mapping[str, Tensor], version: int = 0) -> MadeVersion:
    """The version of these weights, as a store would hold it."""
    files, programs, probe = exporter.files(weights)
    manifest = Manifest(
        version=version,
        run_id="run",
        env_id=None,
        created_unix_s=1e9,
        signature=exporter.signature,
        programs=programs,
        files=describe_files(files),
        weights=WEIGHTS_FILE,
        probe=probe,
        export=exporter.reports,
    )
    return MadeVersion(manifest, files)
