"""Whether adoptions can be felt: the times of a CartPole's steps while versions are adopted, and while none are.

A publisher publishes all the time, in short windows that take turns: into the store that is acted from, and into one
that nobody watches. So nothing but the adoptions differs; what publishing itself takes from whoever acts beside it on
the machine is a row of its own.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import numpy as np

from scripts.benchmarks.helper_process import HelperProcess
from scripts.benchmarks.prepared_versions import prepare_versions
from scripts.benchmarks.publishing_process import start_publisher
from scripts.benchmarks.result import Result
from scripts.benchmarks.step_timer import PERCENTILES, Block, run_step_timer

ADOPTIONS_PER_S = 10.0
WINDOW_S = 0.2
WINDOWS = 61
"""In a round; a window of adoptions is compared with those beside it, so it begins and ends with one of none."""

_VERSIONS = 16
_SMALL_CHANGE = 1e-3  # all of them act alike, so that episodes are as long with adoptions as without
_LEAD_S = 0.5
_QUIET_AFTER_S = 1.5  # by then what was published is synced, and swept
_QUIET_WINDOWS = 5
_WARM_UP_ADOPTIONS_PER_S = 50.0
_WARM_UP_AT_MOST_S = 60.0
_PARTS = 5  # of the run, each with its own median of none over none
_MOST = {"p50": 1.02, "p99": 1.05, "p99.9": 1.10}


class Round(NamedTuple):
    """Windows in the order of time: of none, of adoptions, of none, …; and quiet ones, without any publication."""

    windows: list[Block]
    quiet: list[Block]

    @property
    def none(self) -> list[Block]:
        return self.windows[::2]

    @property
    def adopting(self) -> list[Block]:
        return self.windows[1::2]


def measure_step_times(rounds: int) -> list[Result]:
    """The percentiles' ratios, and the steps that were lost."""
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, elsewhere, logs = (
            Path(directory) / name for name in ("prepared", "store", "elsewhere", "logs")
        )
        prepare_versions(prepared, versions=_VERSIONS, change=_SMALL_CHANGE)
        with (
            start_publisher(prepared, store, elsewhere=elsewhere) as publisher,
            HelperProcess(run_step_timer, store, logs) as stepper,
        ):
            publisher.call("publish")
            _warm_up(publisher, stepper)
            return _rows([_round(publisher, stepper) for _ in range(rounds)])


def _warm_up(publisher: HelperProcess, stepper: HelperProcess) -> None:
    """Adopt until that costs what it costs an actor that goes on doing so."""
    publisher.call("begin", _WARM_UP_ADOPTIONS_PER_S)
    deadline_s = time.monotonic() + _WARM_UP_AT_MOST_S
    while not stepper.call("is_prefetching") and time.monotonic() < deadline_s:
        pass
    publisher.call("end")


def _round(publisher: HelperProcess, stepper: HelperProcess) -> Round:
    seconds = WINDOWS * WINDOW_S + _QUIET_AFTER_S + _QUIET_WINDOWS * WINDOW_S
    stepper.ask("act_for", _LEAD_S + seconds + _LEAD_S)
    time.sleep(_LEAD_S)
    began_s = publisher.call("alternate", ADOPTIONS_PER_S, WINDOW_S, WINDOWS)
    stepper.receive()
    windows = stepper.call("blocks", _edges(began_s, WINDOWS))
    quiet_s = began_s + WINDOWS * WINDOW_S + _QUIET_AFTER_S
    return Round(windows, stepper.call("blocks", _edges(quiet_s, _QUIET_WINDOWS)))


def _edges(began_s: float, windows: int) -> list[float]:
    return [began_s + k * WINDOW_S for k in range(windows + 1)]


def _rows(rounds: Sequence[Round]) -> list[Result]:
    how = (
        f"one CartPole-v1, MLP 64x64, every check on, in a process of its own beside the publisher's; {len(rounds)} "
        f"rounds of {WINDOWS} windows of {WINDOW_S:g} s, in turn with {ADOPTIONS_PER_S:g} adoptions a second and none: "
        "then as much is published into a store that nobody watches"
    )
    rows = []
    for name in PERCENTILES:
        nones = none_over_none(rounds, _step_us(name))
        adopting = adopting_over_none(rounds, _step_us(name))
        row = Result.of(
            f"step time with 10 adoptions a second over none, {name}", adopting, "", how, at_most=_MOST[name]
        )
        rows.append(within_spread(row, nones))
        rows.append(Result.of(f"step time with none over none, {name}", nones, "", how))
    lost = _lost(adopting_over_none(rounds, _steps_per_s))
    rows.append(Result.of("steps lost to 10 adoptions a second", lost, "%", how, at_most=1.0))
    rows.append(Result.of("steps lost to none", _lost(none_over_none(rounds, _steps_per_s)), "%", how))
    beside = [_rate(one.none) / _rate(one.quiet) for one in rounds]
    rows.append(Result.of("steps lost to 10 publications a second that nobody adopts", _lost(beside), "%", how))
    times = [block.step_us["p50"] for one in rounds for block in one.none]
    rows.append(Result.of("step time with none, p50", times, "us", how))
    rates = [sum(block.adoptions for block in one.adopting) / len(one.adopting) / WINDOW_S for one in rounds]
    rows.append(Result.of("adoptions in a second of these", rates, "1/s", how))
    return rows


def adopting_over_none(rounds: Sequence[Round], value: Callable[[Block], float]) -> list[float]:
    """For each window of adoptions, its value over the mean of those of the windows of none beside it."""
    return [ratio for one in rounds for ratio in _over_neighbours([value(block) for block in one.windows])[::2]]


def none_over_none(rounds: Sequence[Round], value: Callable[[Block], float]) -> list[float]:
    """The same among the windows of none."""
    return [ratio for one in rounds for ratio in _over_neighbours([value(block) for block in one.none])]


def _over_neighbours(values: Sequence[float]) -> list[float]:
    """Each but the outermost over the mean of the one before and the one after it."""
    return [2 * here / (before + after) for before, here, after in zip(values, values[1:], values[2:], strict=False)]


def _step_us(percentile: str) -> Callable[[Block], float]:
    return lambda block: block.step_us[percentile]


def _steps_per_s(block: Block) -> float:
    return block.steps_per_s


def _lost(ratios: Sequence[float]) -> list[float]:
    return [100 * (1 - ratio) for ratio in ratios]


def _rate(blocks: Sequence[Block]) -> float:
    return float(np.mean([block.steps_per_s for block in blocks]))


def within_spread(row: Result, nones: Sequence[float]) -> Result:
    """``row`` counts as reached where its median lies between the least and the most median of none over none.

    Medians of parts of the run are compared with: single ratios lie further apart than a median of many ever does.
    """
    medians = [float(np.median(part)) for part in np.array_split(nones, min(_PARTS, len(nones)))]
    low, high = min(medians), max(medians)
    told = f"median {row.value:.3f}; none over none in {len(medians)} parts of the run: medians {low:.3f} to {high:.3f}"
    reached = row.reached or low <= row.value <= high
    return msgspec.structs.replace(row, reached=reached, how=f"{row.how}; {told}")
