"""A process that acts in one CartPole at full speed and records the time of every step."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from actor.agent import Agent
from actor.agent_options import AgentOptions
from scripts.benchmarks.common.prepared_versions import ENV_ID
from shared.store.policy_store import LocalPolicyStore

STEPS_BETWEEN_ADOPTIONS = 16
"""The rollout length of a training, after which the rollout worker adopts."""
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}

_SETTLE_S = 0.2
_MOST_STEPS = 4_000_000


class Window(NamedTuple):
    """A period of acting: microseconds of a step at each percentile, steps per second, adoptions."""

    step_us: dict[str, float]
    steps_per_s: float
    adoptions: int


class StepTimer:
    """Acts with an agent whose checks are all enabled, and adopts when a rollout worker would."""

    def __init__(self, store: Path, prefetch: bool = True) -> None:
        self._env = gymnasium.make(ENV_ID)
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(prefetch=prefetch, name="step-timer"))
        self._began_ns = np.zeros(_MOST_STEPS, np.int64)
        self._took_ns = np.zeros(_MOST_STEPS, np.int64)
        self._steps = 0
        self._adopted_ns: list[int] = []
        self._observation, _ = self._env.reset(seed=0)
        self._begins = True

    def is_prefetching(self) -> bool:
        self.act_for(_SETTLE_S)
        return self._agent.is_prefetching

    def act_for(self, seconds: float) -> None:
        """Repeat for ``seconds``: adopt when due, act, step the environment."""
        agent, env, clock = self._agent, self._env, time.monotonic_ns
        began_at_ns, took_ns = self._began_ns, self._took_ns
        observation, begins, n = self._observation, self._begins, 0
        self._adopted_ns = []
        deadline_ns = clock() + int(seconds * 1e9)
        while n + STEPS_BETWEEN_ADOPTIONS <= _MOST_STEPS and clock() < deadline_ns:
            adoptions = agent.adoptions
            for k in range(STEPS_BETWEEN_ADOPTIONS):
                began_ns = clock()
                if begins:
                    agent.reset()
                elif k == 0:
                    agent.adopt()
                observation, _, terminated, truncated, _ = env.step(agent.act(observation))
                took_ns[n] = clock() - began_ns
                began_at_ns[n] = began_ns
                n += 1
                begins = terminated or truncated
                if begins:
                    observation, _ = env.reset()
            if agent.adoptions != adoptions:
                self._adopted_ns.append(began_ns)
        self._observation, self._begins, self._steps = observation, begins, n

    def windows(self, edges_s: Sequence[float]) -> list[Window]:
        """Return the window between each two consecutive monotonic times of the last ``act_for``."""
        edges_ns = [int(edge_s * 1e9) for edge_s in edges_s]
        firsts = np.searchsorted(self._began_ns[: self._steps], edges_ns)
        adopted = np.searchsorted(self._adopted_ns, edges_ns)
        windows = []
        for k in range(len(edges_s) - 1):
            took_ns = self._took_ns[firsts[k] : firsts[k + 1]]
            values = np.percentile(took_ns, list(PERCENTILES.values())) / 1e3
            step_us = dict(zip(PERCENTILES, map(float, values), strict=True))
            rate = len(took_ns) / (edges_s[k + 1] - edges_s[k])
            windows.append(Window(step_us, rate, int(adopted[k + 1] - adopted[k])))
        return windows
