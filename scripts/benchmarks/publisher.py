"""``Publisher`` in a user's own loop: time on the caller's thread, and time until the commit."""

import time
from collections.abc import Sequence
from itertools import pairwise
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

from learner.publishing.publisher import Publisher
from scripts.benchmarks.common.prepared_versions import ENV_ID, LARGE, SMALL, TEMPORARY_PREFIX
from scripts.benchmarks.common.result import Result
from shared.store.policy_store import Retention

_PUBLICATIONS = 100  # in a round
_LARGE_PUBLICATIONS = 10
_LARGE_PAUSE_S = 0.3  # training between two publications
_COMMIT_TIMEOUT_S = 60.0


def measure_publisher(rounds: int, publications: int = _PUBLICATIONS, large: Sequence[int] = LARGE) -> list[Result]:
    """Return the time of ``Publisher.publish`` for a small and a large network, and the time until the commit."""
    requests_ms, commits_ms = publish_ms(SMALL, rounds * publications)
    how = f"MLP 64x64 with a value network, {len(requests_ms)} publications, one after another"
    results = [
        _percentile("Publisher.publish on the caller's thread", requests_ms, 50.0, rounds, how, at_most=0.3),
        _percentile("Publisher.publish on the caller's thread", requests_ms, 99.0, rounds, how, at_most=1.0),
        Result.of("Publisher, from the request to the commit", commits_ms, "ms", how, at_most=10.0),
    ]
    large_ms, _ = publish_ms(large, _LARGE_PUBLICATIONS, pause_s=_LARGE_PAUSE_S)
    how = f"{_LARGE_PUBLICATIONS} publications, each after the commit of the one before"
    return [*results, Result.of("Publisher.publish on the caller's thread, 103 MB", large_ms, "ms", how, at_most=60.0)]


def publish_ms(
    hidden_sizes: Sequence[int], publications: int, *, pause_s: float = 0.0
) -> tuple[list[float], list[float]]:
    """Return the times of ``publish`` and until ``wait`` returns, without the first of each."""
    env: Any = gymnasium.make(ENV_ID)
    requests_ms, commits_ms = [], []
    with (
        TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory,
        Publisher(
            directory,
            _Policy(hidden_sizes),
            env.observation_space,
            env.action_space,
            retention=Retention(keep_newest=2),
        ) as publisher,
    ):
        for step in range(publications + 1):
            time.sleep(pause_s)
            began_s = time.perf_counter()
            publisher.publish(step)
            requests_ms.append(1e3 * (time.perf_counter() - began_s))
            publisher.wait(_COMMIT_TIMEOUT_S)
            commits_ms.append(1e3 * (time.perf_counter() - began_s))
    env.close()
    return requests_ms[1:], commits_ms[1:]


def _percentile(name: str, values: list[float], percentile: float, rounds: int, how: str, *, at_most: float) -> Result:
    parts = [float(np.percentile(part, percentile)) for part in np.array_split(values, rounds)]
    value = float(np.percentile(values, percentile))
    result = Result.of(f"{name}, p{percentile:g}", parts, "ms", how, at_most=at_most)
    return replace(result, value=value, reached=value <= at_most)


class _Policy(nn.Module):
    """Layers of ``hidden_sizes`` for actions and, unless they are many, the same again for values."""

    def __init__(self, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.actor = _layers(hidden_sizes, 2)
        self.critic = _layers(hidden_sizes if len(hidden_sizes) <= len(SMALL) else (), 1)

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.actor(observation), "value": self.critic(observation)}


def _layers(hidden_sizes: Sequence[int], n_outputs: int) -> nn.Sequential:
    sizes = (4, *hidden_sizes)
    layers = [layer for before, size in pairwise(sizes) for layer in (nn.Linear(before, size), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_outputs))
