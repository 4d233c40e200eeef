"""Windows of acting and their statistics: paired comparisons with neighbours, and bootstrap intervals.

A publisher publishes all the time, in short windows that alternate: into the store that is acted from, and into a
control store that no actor watches. The windows differ by the adoptions alone.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from scripts.benchmarks.common.helper_process import HelperProcess
from scripts.benchmarks.reload.step_timer import Window

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
    publisher: HelperProcess,
    step_timer: HelperProcess,
    per_second: float,
    targets: Sequence[int],
    *,
    quiet_s: float = 0,
) -> float:
    """Act while one window after the other is published into the stores ``targets``, then for ``quiet_s`` seconds.

    Returns:
        The monotonic time at which the first window began, in seconds.
    """
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
    return [ratio for one in rounds for ratio in _over_neighbours([value(window) for window in one.windows])[::2]]


def control_over_control(rounds: Sequence[Round], value: Value) -> list[float]:
    """Divide each control window's value by the mean of the control windows beside it."""
    return [ratio for one in rounds for ratio in _over_neighbours([value(window) for window in one.control])]


def _over_neighbours(values: Sequence[float]) -> list[float]:
    """Divide each inner value by the mean of its two neighbours."""
    return [2 * here / (before + after) for before, here, after in zip(values, values[1:], values[2:], strict=False)]


def lost_percent(ratios: Sequence[float]) -> list[float]:
    """Convert ratios of steps per second to percentages of lost steps."""
    return [100 * (1 - ratio) for ratio in ratios]


def bootstrap(values: Sequence[float], statistic: Callable[..., np.ndarray] = np.mean, *, seed: int = 0) -> Interval:
    """Estimate ``statistic`` of ``values`` with a 95% percentile bootstrap interval (Efron, 1979).

    For a paired comparison, ``values`` are the differences of the pairs.

    Args:
        values: One value for each window, [N].
        statistic: Reduces an array along its last axis, for example ``np.mean`` or ``np.median``.
        seed: Seed of the resampling.
    """
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(len(array), size=(_RESAMPLES, len(array)))
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(statistic(array[picks], axis=-1), [tail, 100 - tail])
    return Interval(float(statistic(array, axis=-1)), float(low), float(high))
