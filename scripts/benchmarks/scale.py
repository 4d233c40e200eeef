"""``benchmark.py scale``: growth of the cost of replacing a policy with model size, actors and versions."""

import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from actor.watching.policy_watcher import PolicyWatcher
from scripts.benchmarks.common.prepared_versions import (
    TEMPORARY_PREFIX,
    PreparedVersion,
    add_versions,
    prepare_versions,
    read_prepared_versions,
    workspace,
)
from scripts.benchmarks.common.processes import (
    STEP_S,
    ActorFleet,
    publish_and_wait,
    read_digest_and_copy_s,
    start_publisher,
)
from scripts.benchmarks.common.result import Line, Result, number, save_plot
from scripts.benchmarks.common.rounds import BenchmarkSettings
from shared.errors import HotswapError
from shared.store.policy_store import LocalPolicyStore, Retention

ACTORS = (1, 2, 4, 8, 16, 32, 64)
VERSIONS = (10, 100, 1_000, 10_000, 100_000)
HIDDEN_SIZES = ((45, 45), (155, 155), (497, 497), (1577, 1577), (1600,) * 11, (2048,) * 60)
"""Networks with 10 kB, 100 kB, 1 MB, 10 MB, 103 MB and 990 MB of weights."""


class Budget:
    """A time budget for ascending sizes. The time of a size is predicted from that of the size before."""

    def __init__(self, seconds: float) -> None:
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + seconds

    def lack(self, factor: float) -> str | None:
        """Return the reason to omit a size ``factor`` times the last one, or None. Call it before each size."""
        now_s = time.monotonic()
        expected_s, left_s = factor * (now_s - self._began_s), self._deadline_s - now_s
        self._began_s = now_s
        return None if expected_s <= left_s else f"{left_s:.0f} s left, expected time {expected_s:.0f} s"


@dataclass
class Growth:
    """Measurements by the name of a line and the size on the horizontal axis, in order."""

    title: str
    x_label: str
    how: str
    times_ms: dict[str, dict[float, list[float]]] = field(default_factory=dict)

    def add(self, line: str, size: float, times_ms: Sequence[float]) -> None:
        self.times_ms.setdefault(line, {})[size] = list(times_ms)

    def results(self) -> list[Result]:
        return [
            Result.of(f"{line}, {size:,.{'3g' if size < 100 else '0f'}} {self.x_label}", times_ms, "ms", self.how)
            for line, points in self.times_ms.items()
            for size, times_ms in points.items()
        ]

    def lines(self) -> list[Line]:
        """Return lines of medians, with a band from the minimum to the maximum."""
        return [
            Line(line, list(points), *([f(times_ms) for times_ms in points.values()] for f in (median, min, max)))
            for line, points in self.times_ms.items()
        ]


_LARGE_MB = 50.0
_HUGE_MB = 500.0
_MODEL_TIMES = 8
_TIMES_LARGE = 3
_TIMES_HUGE = 2
_MODEL_BUDGET_S = 200.0
# The acting, the last good and the standby engine, each with packed weights, and two versions to publish.
_MEMORY_FACTOR = 14
_DISK_FACTOR = 8


def grow_models(all_hidden_sizes: Sequence[tuple[int, ...]], console: Console) -> Growth:
    """Measure ascending sizes; omit, with a line, those that exceed the memory, disk or time available."""
    budget, measured_mb = Budget(_MODEL_BUDGET_S), 0.0
    growth = Growth(
        "From rename to first action, one actor", "MB of weights", "MLP, ONNX, steps of 1 ms, one actor process"
    )
    for hidden_sizes in all_hidden_sizes:
        sizes = itertools.pairwise((4, *hidden_sizes, 3))
        weights_mb = sum(4e-6 * (n_in + 1) * n_out for n_in, n_out in sizes)
        factor = weights_mb / measured_mb if measured_mb > _LARGE_MB else 1
        if (lack := _lacking(weights_mb) or budget.lack(factor)) is not None:
            console.print(f"{weights_mb:,.0f} MB of weights omitted: {lack}", highlight=False)
            continue
        times = _MODEL_TIMES if weights_mb < _LARGE_MB else _TIMES_LARGE if weights_mb < _HUGE_MB else _TIMES_HUGE
        try:
            adoption_ms, floor_ms = _adopt(hidden_sizes, times)
        except HotswapError as error:  # keep the results of smaller sizes
            console.print(f"{weights_mb:,.0f} MB of weights omitted: {error}", highlight=False, markup=False)
            continue
        measured_mb = weights_mb
        growth.add("adoption", weights_mb, adoption_ms)
        growth.add("one read, one digest and one copy", weights_mb, floor_ms)
        median_ms = float(np.median(adoption_ms))
        console.print(f"  {number(weights_mb)} MB: {number(median_ms)} ms", highlight=False)
    return growth


def _adopt(hidden_sizes: tuple[int, ...], times: int) -> tuple[list[float], list[float]]:
    with (
        workspace(versions=2, change=0.1, hidden_sizes=hidden_sizes, onnx_alone=True) as paths,
        start_publisher(paths.prepared, paths.store, keep_newest=2) as publisher,
        ActorFleet(paths.store, paths.logs, pace_s=STEP_S) as fleet,
    ):
        fleet.grow(1, publisher.call("publish").version)
        publish_and_wait(publisher, fleet)  # from the second load on there is a spare engine to write to
        publish_and_wait(publisher, fleet)
        adoption_ms, floor_ms = [], []
        for _ in range(times):
            adoption_ms.append(1e3 * publish_and_wait(publisher, fleet))
            floor_ms.append(1e3 * read_digest_and_copy_s(LocalPolicyStore(paths.store)))
    return adoption_ms, floor_ms


def _lacking(weights_mb: float) -> str | None:
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(gettempdir()).free
    for resource, free, factor in (("memory", memory, _MEMORY_FACTOR), ("disk", disk, _DISK_FACTOR)):
        if free / 1e6 < factor * weights_mb:
            return f"{free / 1e6:,.0f} MB of {resource} free, {factor * weights_mb:,.0f} MB needed"
    return None


_ACTOR_STEP_S = 1e-2  # 64 actors then take half of a core for acting
_ACTOR_TIMES = 12
_ACTOR_BUDGET_S = 120.0
_ACTOR_MB = 150


def grow_actors(counts: Sequence[int], console: Console) -> Growth:
    """Measure ascending ``counts`` of actors; omit, with a line, those that exceed the memory or time available."""
    budget = Budget(_ACTOR_BUDGET_S)
    random = np.random.default_rng(0)
    growth = Growth("From rename to first action", "actors", f"MLP 64x64, ONNX, steps of {1e3 * _ACTOR_STEP_S:g} ms")
    with (
        workspace(versions=8, change=0.1) as paths,
        start_publisher(paths.prepared, paths.store) as publisher,
        ActorFleet(paths.store, paths.logs, pace_s=_ACTOR_STEP_S) as fleet,
    ):
        before = 0
        for count in counts:
            lack = budget.lack(count / before if before else 1)
            if psutil.virtual_memory().available / 1e6 < _ACTOR_MB * (count - before):
                lack = "not enough memory"
            if lack is not None:
                console.print(f"{count} actors omitted: {lack}", highlight=False)
                break
            fleet.grow(count, publisher.call("publish").version)
            before = count
            middle_ms, last_ms = [], []
            for _ in range(_ACTOR_TIMES):
                time.sleep(random.uniform(0.05, 0.1))
                published = publisher.call("publish")
                firsts = [first.acted_s - published.renaming_s for first in fleet.first_actions(published.version)]
                middle_ms.append(1e3 * float(np.median(firsts)))
                last_ms.append(1e3 * max(firsts))
            growth.add("last actor", count, last_ms)
            growth.add("median actor", count, middle_ms)
            console.print(f"  {count} actors: {np.median(last_ms):.1f} ms", highlight=False)
    return growth


_STORE_TIMES = 5
_STORE_BUDGET_S = 120.0
_MEMORY_DISK = Path("/dev/shm")
_MEMORY_DISK_BYTES = 3e9


def grow_versions(counts: Sequence[int], console: Console) -> Growth:
    """Measure ascending ``counts`` of versions in one store; omit those that exceed the time budget."""
    # A disk takes minutes to remove 100,000 directories.
    has_room = _MEMORY_DISK.is_dir() and shutil.disk_usage(_MEMORY_DISK).free > _MEMORY_DISK_BYTES
    place, where = (_MEMORY_DISK, "a directory in memory") if has_room else (None, "a directory on disk")
    growth = Growth(f"Store operations in {where}", "versions in the store", f"{where}; {_STORE_TIMES} repetitions")
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=place) as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        prepare_versions(store.path, versions=1, change=0.0)
        (prepared,) = read_prepared_versions(store.path)
        budget, measured = Budget(_STORE_BUDGET_S), 1
        for count in counts:
            if (lack := budget.lack(count / measured)) is not None:
                console.print(f"{count:,} versions omitted: {lack}", highlight=False)
                break
            newest = store.newest()
            assert newest is not None
            first = newest - len(store.versions()) + 1
            add_versions(store, range(newest + 1, first + count))
            _measure_store(growth, store, prepared, count)
            measured = count
        console.print(f"removing {measured:,} versions …", highlight=False)
    return growth


def _measure_store(growth: Growth, store: LocalPolicyStore, prepared: PreparedVersion, count: int) -> None:
    newest = store.newest()
    assert newest is not None
    publish = partial(prepared.publish, store)
    sweep = partial(store.sweep, Retention(keep_newest=count))
    operations: dict[str, Callable[[], object]] = {
        "list": store.versions,
        "open newest": partial(store.open, newest),
        "publish": publish,
        "sweep of one": sweep,
        "watcher, new version": partial(PolicyWatcher(store).check, force=True),
    }
    sweep()
    for name, operation in operations.items():
        times_ms = []
        for _ in range(_STORE_TIMES):
            if operation is sweep:
                publish()
            began_s = time.perf_counter()
            operation()
            times_ms.append(1e3 * (time.perf_counter() - began_s))
        growth.add(name, count, times_ms)
        if operation is publish:
            sweep()


def measure_scale(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return all results of this kind, which have no targets."""
    results: list[Result] = []
    kinds: dict[str, tuple[str, Callable[[Console], Growth]]] = {
        "model-size": ("adoption time by model size", partial(grow_models, HIDDEN_SIZES)),
        "actors": ("time from publishing to acting by number of actors", partial(grow_actors, ACTORS)),
        "versions": ("store operations by number of versions", partial(grow_versions, VERSIONS)),
    }
    for name, (what, grow) in kinds.items():
        console.print(f"{what} …")
        growth = grow(console)
        results += growth.results()
        if settings.plots is not None:
            path, labels = settings.plots / f"scale-{name}.png", {"x_label": growth.x_label, "y_label": "milliseconds"}
            save_plot(path, growth.lines(), title=growth.title, **labels)
    return results
