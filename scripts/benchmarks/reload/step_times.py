"""Step times of CartPole: with and without adoptions, and with and without the prefetcher."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console

from scripts.benchmarks.common.helper_process import HelperProcess, serve_actor
from scripts.benchmarks.common.prepared_versions import workspace
from scripts.benchmarks.common.processes import start_publisher
from scripts.benchmarks.common.result import Result, number
from scripts.benchmarks.reload.windows import (
    PERCENTILES,
    WINDOW_S,
    Interval,
    Round,
    StepTimer,
    Window,
    adopting_over_control,
    bootstrap,
    control_over_control,
    interquartile_mean,
    lost_percent,
    read_windows,
    run_windows,
    step_us,
    steps_per_s,
)

ADOPTIONS_PER_S = 10.0
WINDOWS = 61
"""Windows in a round; the first and the last are control windows."""
VERSIONS = 16
SMALL_CHANGE = 1e-3
"""Change of the prepared weights: all versions act alike, so episodes are equally long with and without adoptions."""

_STORE, _CONTROL = 0, 1
_QUIET_AFTER_S = 1.5  # by then the publisher has synced and swept
_QUIET_WINDOWS = 5
_WARM_UP_ADOPTIONS_PER_S = 50.0
_WARM_UP_S = 5.0
_WARM_UP_TIMEOUT_S = 60.0
_PARTS = 5  # of the run, each with its own median of the control ratios
_AT_MOST = {"p50": 1.02, "p99": 1.05, "p99.9": 1.10}


def measure_step_times(rounds: int) -> list[Result]:
    """Return the ratios of step times at each percentile and the share of lost steps."""
    with workspace(versions=VERSIONS, change=SMALL_CHANGE) as paths:
        control = paths.store.with_name("control")
        with (
            start_publisher(paths.prepared, paths.store, control) as publisher,
            HelperProcess(serve_actor, paths.logs, StepTimer, paths.store) as step_timer,
        ):
            publisher.call("publish")
            warm_up(publisher, step_timer)
            return _results([_round(publisher, step_timer) for _ in range(rounds)])


def warm_up(publisher: HelperProcess, step_timer: HelperProcess, store: int = _STORE, *, prefetch: bool = True) -> None:
    """Adopt from store number ``store`` for a while and, with ``prefetch``, until the actor has its prefetcher."""
    publisher.call("begin", _WARM_UP_ADOPTIONS_PER_S, store)
    began_s = time.monotonic()
    while (now_s := time.monotonic() - began_s) < _WARM_UP_TIMEOUT_S:
        if step_timer.call("is_prefetching") or (not prefetch and now_s >= _WARM_UP_S):
            break
    publisher.call("end")


def _round(publisher: HelperProcess, step_timer: HelperProcess) -> Round:
    targets = [_CONTROL if k % 2 == 0 else _STORE for k in range(WINDOWS)]
    quiet_s = _QUIET_AFTER_S + _QUIET_WINDOWS * WINDOW_S
    began_s = run_windows(publisher, step_timer, ADOPTIONS_PER_S, targets, quiet_s=quiet_s)
    windows = read_windows(step_timer, began_s, WINDOWS)
    quiet_began_s = began_s + WINDOWS * WINDOW_S + _QUIET_AFTER_S
    return Round(windows, read_windows(step_timer, quiet_began_s, _QUIET_WINDOWS))


def _results(rounds: Sequence[Round]) -> list[Result]:
    how = (
        f"one CartPole-v1, MLP 64x64, all checks on, actor and publisher in separate processes; {len(rounds)} rounds "
        f"of {WINDOWS} windows of {WINDOW_S:g} s, alternating between {ADOPTIONS_PER_S:g} adoptions per second and "
        "control windows, in which the same versions go to a store that no actor watches"
    )
    results = []
    for name in PERCENTILES:
        control = control_over_control(rounds, step_us(name))
        adopting = adopting_over_control(rounds, step_us(name))
        label = f"step time at {ADOPTIONS_PER_S:g} adoptions/s over control, {name}"
        results.append(with_control_spread(Result.of(label, adopting, "", how, at_most=_AT_MOST[name]), control))
        results.append(Result.of(f"step time of control over control, {name}", control, "", how))
    lost = lost_percent(adopting_over_control(rounds, steps_per_s))
    results.append(Result.of(f"steps lost to {ADOPTIONS_PER_S:g} adoptions/s", lost, "%", how, at_most=1.0))
    control = lost_percent(control_over_control(rounds, steps_per_s))
    results.append(Result.of("steps lost in control windows", control, "%", how))
    publishing = lost_percent([_mean_rate(one.control) / _mean_rate(one.quiet) for one in rounds])
    results.append(
        Result.of(f"steps lost to {ADOPTIONS_PER_S:g} publications/s without adoptions", publishing, "%", how)
    )
    times_us = [window.step_us["p50"] for one in rounds for window in one.control]
    results.append(Result.of("step time in control windows, p50", times_us, "us", how))
    rates = [sum(window.adoptions for window in one.adopting) / len(one.adopting) / WINDOW_S for one in rounds]
    return [*results, Result.of("adoptions per second", rates, "1/s", how)]


def _mean_rate(windows: Sequence[Window]) -> float:
    return float(np.mean([window.steps_per_s for window in windows]))


def with_control_spread(result: Result, control: Sequence[float]) -> Result:
    """Return ``result`` with the spread of the control ratios noted beside it; its status does not change."""
    medians = [float(np.median(part)) for part in np.array_split(control, min(_PARTS, len(control)))]
    spread = f"control medians {min(medians):.3f} to {max(medians):.3f}"
    how = f"{result.how}; {spread} in {len(medians)} parts of the run"
    return msgspec.structs.replace(result, note=spread, how=how)


RATES_PER_S = (10.0, 40.0)
PREFETCH_WINDOWS = 21
"""Windows in a turn; the first and the last are control windows."""

_ON, _OFF, _OFF_CONTROL = 0, 1, 2
_MOST_ROUNDS_FACTOR = 4  # more rounds where the difference is not resolved yet


class Comparison(NamedTuple):
    on: list[Round]
    off: list[Round]

    def lost_percent(self) -> tuple[Interval, Interval, Interval]:
        """Return the interquartile mean of the lost steps in percent: on, off, and off less on."""
        on, off = (lost_percent(adopting_over_control(rounds, steps_per_s)) for rounds in self)
        return _intervals(on, off, interquartile_mean)

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
    rounds: int, console: Console, *, rates_per_s: Sequence[float] = RATES_PER_S, windows: int = PREFETCH_WINDOWS
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
                        targets = [_OFF_CONTROL if k % 2 == 0 else store for k in range(windows)]
                        began_s = run_windows(publisher, step_timer, rate, targets)
                        found.append(Round(read_windows(step_timer, began_s, windows), []))
                results += results_of(comparison, rate)
                lost = "{} ({} to {})".format(*map(number, comparison.lost_percent()[2]))
                console.print(f"  {rate:g} adoptions/s: the prefetcher saves {lost}% of the steps", highlight=False)
    return results


def _needs_round(comparison: Comparison, rounds: int) -> bool:
    """Return True until ``rounds`` are over, and up to four times as many while a difference is not resolved."""
    done = len(comparison.on)
    if done < rounds or done >= _MOST_ROUNDS_FACTOR * rounds:
        return done < rounds
    return not (comparison.lost_percent()[2].is_resolved and comparison.step_us("p99.9")[2].is_resolved)


def results_of(comparison: Comparison, rate: float) -> list[Result]:
    """Return on, off and difference of both quantities; their ranges are 95% bootstrap intervals."""
    pairs = sum(len(one.adopting) for one in comparison.on)
    how = (
        f"one CartPole-v1, MLP 64x64, {rate:g} adoptions per second; {pairs} pairs of windows of {WINDOW_S:g} s, each "
        "adopting window compared with the control windows beside it; interquartile mean of lost steps, "
        "median of step times; min and max are a 95% bootstrap interval over windows; differences are those of "
        "pairs, not of the averages"
    )
    results = []
    lost, time_us = comparison.lost_percent(), comparison.step_us("p99.9")
    for name, unit, intervals in (("steps lost", "%", lost), ("step time p99.9", "us", time_us)):
        for mode, interval in zip(("on", "off", "off less on"), intervals, strict=True):
            resolved = f", {'' if interval.is_resolved else 'not '}resolved" if mode == "off less on" else ""
            label, note = f"{name} at {rate:g} adoptions/s, prefetcher {mode}", f"95% interval{resolved}"
            value, low, high = interval
            results.append(Result(label, value, None, None, low, high, unit, how, note=note))
    return results
