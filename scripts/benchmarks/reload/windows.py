"""Windows of acting and their statistics: paired comparisons with neighbours, and bootstrap intervals.

A publisher publishes all the time, in short windows that alternate: into the store that is acted from, and into a
control store that no actor watches. The windows differ by the adoptions alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from actor.agent import Agent
from actor.agent_options import AgentOptions
from scripts.benchmarks.common.helper_process import HelperProcess
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
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(prefetch=prefetch, name="step-timer", sandbox=None))
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


WINDOW_S = 0.2
LEAD_S = 0.5
"""Acting before the first window and after the last."""

_RESAMPLES = 2000
_CONFIDENCE = 0.95

Value = Callable[[Window], float]


class Round(NamedTuple):
    """Windows in the order of time: control, adopting, control, …; and quiet ones, without any publication."""

    windows: list[Window]
    quiet: list[Window]

    @property
    def control(self) -> list[Window]:
        return self.windows[::2]

    @property
    def adopting(self) -> list[Window]:
        return self.windows[1::2]


class Interval(NamedTuple):
    """An estimate with its bootstrap confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """True when the interval excludes zero and is narrower than the value."""
        return self.low * self.high > 0 and self.high - self.low < abs(self.value)


def run_windows(
    publisher: HelperProcess, step_timer: HelperProcess, per_second: float, targets: Sequence[int], quiet_s: float = 0
) -> float:
    """Act while windows are published into ``targets``, then ``quiet_s`` seconds; return when the windows began."""
    step_timer.send("act_for", LEAD_S + len(targets) * WINDOW_S + quiet_s + LEAD_S)
    time.sleep(LEAD_S)
    began_s: float = publisher.call("publish_in_windows", per_second, WINDOW_S, targets)
    step_timer.receive()
    return began_s


def read_windows(step_timer: HelperProcess, began_s: float, count: int) -> list[Window]:
    """Return ``count`` windows of the last run, the first of which began at ``began_s``."""
    windows: list[Window] = step_timer.call("windows", [began_s + k * WINDOW_S for k in range(count + 1)])
    return windows


def steps_per_s(window: Window) -> float:
    return window.steps_per_s


def step_us(percentile: str) -> Value:
    """Return a function that gives a window's step time at ``percentile`` in microseconds."""
    return lambda window: window.step_us[percentile]


def adopting_over_control(rounds: Sequence[Round], value: Value) -> list[float]:
    """Divide each adopting window's value by the mean of the control windows beside it."""
    return [ratio for one in rounds for ratio in _over_neighbours(one.windows, value)[::2]]


def control_over_control(rounds: Sequence[Round], value: Value) -> list[float]:
    """Divide each control window's value by the mean of the control windows beside it."""
    return [ratio for one in rounds for ratio in _over_neighbours(one.control, value)]


def _over_neighbours(windows: Sequence[Window], value: Value) -> list[float]:
    values = [value(window) for window in windows]
    return [2 * here / (before + after) for before, here, after in zip(values, values[1:], values[2:], strict=False)]


def lost_percent(ratios: Sequence[float]) -> list[float]:
    """Convert ratios of steps per second to percentages of lost steps."""
    return [100 * (1 - ratio) for ratio in ratios]


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of the middle half of ``values`` along ``axis``, which a few disturbed windows do not move."""
    ordered = np.sort(values, axis=axis)
    count = ordered.shape[axis]
    middle: np.ndarray = np.take(ordered, range(count // 4, count - count // 4), axis=axis).mean(axis=axis)
    return middle


def bootstrap(values: Sequence[float], statistic: Callable[..., np.ndarray] = np.mean, *, seed: int = 0) -> Interval:
    """Estimate ``statistic`` of ``values`` with a 95% percentile bootstrap interval (Efron, 1979).

    Args:
        values: One value for each window, [N]; for a paired comparison, the differences of the pairs.
        statistic: Reduces an array along its last axis, for example ``np.mean`` or ``np.median``.
    """
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(len(array), size=(_RESAMPLES, len(array)))
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(statistic(array[picks], axis=-1), [tail, 100 - tail])
    return Interval(float(statistic(array, axis=-1)), float(low), float(high))
