"""Effect of the prefetcher: steps lost to adoptions and step times, with the prefetcher on and off.

Two actors, one with and one without the prefetcher, take turns; only one acts at a time. In a turn, adopting windows
alternate with control windows. A pair consists of the same window of the turns of both actors in one round.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from scripts.benchmarks.common.helper_process import HelperProcess, serve_actor
from scripts.benchmarks.common.prepared_versions import workspace
from scripts.benchmarks.common.publishing_process import start_publisher
from scripts.benchmarks.common.result import Result, number
from scripts.benchmarks.reload.step_timer import StepTimer
from scripts.benchmarks.reload.step_times import SMALL_CHANGE, VERSIONS, warm_up
from scripts.benchmarks.reload.windows import (
    WINDOW_S,
    Interval,
    Round,
    adopting_over_control,
    bootstrap,
    lost_percent,
    read_windows,
    run_windows,
    step_us,
    steps_per_s,
)

RATES_PER_S = (10.0, 40.0)
WINDOWS = 21
"""Windows in a turn; the first and the last are control windows."""

_ON, _OFF, _CONTROL = 0, 1, 2
_MOST_ROUNDS_FACTOR = 2  # more rounds where the difference is not resolved yet


class Comparison(NamedTuple):
    on: list[Round]
    off: list[Round]

    def lost_percent(self) -> tuple[Interval, Interval, Interval]:
        """Return the mean share of lost steps in percent: on, off, and off less on."""
        on, off = (lost_percent(adopting_over_control(rounds, steps_per_s)) for rounds in self)
        return _intervals(on, off, np.mean)

    def step_us(self, percentile: str) -> tuple[Interval, Interval, Interval]:
        """Return the median over adopting windows of a percentile of the step time: on, off, and off less on."""
        value = step_us(percentile)
        on, off = ([value(window) for one in rounds for window in one.adopting] for rounds in self)
        return _intervals(on, off, np.median)


def _intervals(
    on: Sequence[float], off: Sequence[float], statistic: Callable[..., np.ndarray]
) -> tuple[Interval, Interval, Interval]:
    differences = [b - a for a, b in zip(on, off, strict=True)]
    return bootstrap(on, statistic), bootstrap(off, statistic), bootstrap(differences, statistic)


def measure_prefetching(
    rounds: int, console: Console, *, rates_per_s: Sequence[float] = RATES_PER_S, windows: int = WINDOWS
) -> list[Result]:
    """Return lost steps and p99.9 of the step time, with the prefetcher on and off, and the differences."""
    with workspace(versions=VERSIONS, change=SMALL_CHANGE) as paths:
        off, control = (paths.store.with_name(name) for name in ("store-off", "control"))
        with (
            start_publisher(paths.prepared, paths.store, off, control) as publisher,
            HelperProcess(serve_actor, paths.logs, StepTimer, paths.store) as with_prefetcher,
            HelperProcess(serve_actor, paths.logs, StepTimer, off, False) as without,
        ):
            for store, step_timer in ((_ON, with_prefetcher), (_OFF, without)):
                publisher.call("publish", store)
                warm_up(publisher, step_timer, store, prefetch=store == _ON)
            results = []
            for rate in rates_per_s:
                comparison = Comparison([], [])
                while _needs_round(comparison, rounds):
                    turns = [(_ON, with_prefetcher, comparison.on), (_OFF, without, comparison.off)]
                    for store, step_timer, found in turns if len(comparison.on) % 2 == 0 else reversed(turns):
                        targets = [_CONTROL if k % 2 == 0 else store for k in range(windows)]
                        began_s = run_windows(publisher, step_timer, rate, targets)
                        found.append(Round(read_windows(step_timer, began_s, windows), []))
                results += results_of(comparison, rate)
                lost = comparison.lost_percent()[2]
                console.print(
                    f"  {rate:g} adoptions/s: the prefetcher saves {_text(lost)}% of the steps", highlight=False
                )
    return results


def _needs_round(comparison: Comparison, rounds: int) -> bool:
    """Return True until ``rounds`` are over, and up to twice as long while a difference is not resolved."""
    done = len(comparison.on)
    if done < rounds:
        return True
    differences = (comparison.lost_percent()[2], comparison.step_us("p99.9")[2])
    return done < _MOST_ROUNDS_FACTOR * rounds and not all(each.is_resolved for each in differences)


def results_of(comparison: Comparison, rate: float) -> list[Result]:
    """Return on, off and difference of both quantities; their ranges are 95% bootstrap intervals."""
    pairs = sum(len(one.adopting) for one in comparison.on)
    how = (
        f"one CartPole-v1, MLP 64x64, {rate:g} adoptions per second; {pairs} pairs of windows of {WINDOW_S:g} s, each "
        "adopting window compared with the control windows beside it; mean of lost steps, median of step times; "
        "min and max are a 95% bootstrap interval over windows; differences are those of pairs, not of the averages"
    )
    quantities = (
        ("steps lost", "%", comparison.lost_percent()),
        ("step time p99.9", "us", comparison.step_us("p99.9")),
    )
    return [
        _result(f"{name} at {rate:g} adoptions/s, prefetcher {mode}", interval, unit, how, is_difference)
        for name, unit, intervals in quantities
        for (mode, is_difference), interval in zip(
            (("on", False), ("off", False), ("off less on", True)), intervals, strict=True
        )
    ]


def _result(name: str, interval: Interval, unit: str, how: str, is_difference: bool) -> Result:
    note = "95% interval"
    if is_difference:
        note += ", resolved" if interval.is_resolved else ", not resolved"
    return Result(name, interval.value, None, None, interval.low, interval.high, unit, how, note=note)


def _text(interval: Interval) -> str:
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"
