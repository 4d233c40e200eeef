"""Policies of every kind that the engines must run, and the versions that an exporter makes of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from learner.acting_policy import ActingPolicy
from learner.config import NetworkConfig
from learner.policy_export import WEIGHTS_FILE, PolicyExporter
from shared.manifest import FileEntry, Manifest
from shared.spaces import action_spec, observation_leaves

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

_LARGE_CLIP = spaces.Box(np.array([-1, -np.inf, 0], np.float32), np.array([1, np.inf, 2], np.float32), dtype=np.float32)

CASES: dict[str, tuple[spaces.Space, spaces.Space, NetworkConfig, bool]] = {
    "vector, discrete": (VECTOR, spaces.Discrete(3), NetworkConfig(hidden_sizes=(32,)), False),
    "image, masked multi-discrete": (IMAGE, spaces.MultiDiscrete([3, 4]), NetworkConfig(hidden_sizes=(32,)), True),
    "nested, clipped box": (NESTED, _LARGE_CLIP, NetworkConfig(hidden_sizes=(32,), normalize_observations=True), False),
    "recurrent, multi-binary": (VECTOR, spaces.MultiBinary([2, 3]), NetworkConfig("lstm", (32,), 16), False),
    "nested, recurrent, masked discrete": (NESTED, spaces.Discrete(6, start=2), NetworkConfig("lstm", (32,), 16), True),
    "vector, float64 box": (VECTOR, spaces.Box(-1, 1, (2,), np.float64), NetworkConfig(shared_trunk=False), False),
}


def make_policy(case: str, seed: int = 0) -> ActingPolicy:
    """A policy with weights that let its actions differ: fresh ones are nearly uniform."""
    observation, action, network, masked = CASES[case]
    torch.manual_seed(seed)
    policy = ActingPolicy(observation_leaves(observation), action_spec(action), network, masked)
    return stirred(policy, seed)


def stirred(policy: ActingPolicy, seed: int) -> ActingPolicy:
    """Moves every parameter, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return policy


@dataclass(frozen=True)
class MadeVersion:
    """A version that lies in memory."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def read(self, name: str) -> bytes:
        return self.files[name]


def make_version(exporter: PolicyExporter, weights: Mapping[str, Tensor], version: int = 0) -> MadeVersion:
    """What a store would hold of these weights."""
    files, programs, probe = exporter.files(weights)
    manifest = Manifest(
        version=version,
        run_id="run",
        env_id=None,
        created_unix_s=0.0,
        signature=exporter.signature,
        programs=programs,
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        weights=WEIGHTS_FILE,
        probe=probe,
        export=exporter.reports,
    )
    return MadeVersion(manifest, files)
