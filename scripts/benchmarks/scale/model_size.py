"""Adoption time by model size: from the rename that commits a version to one actor's first action with it."""

import itertools
import shutil
from collections.abc import Sequence
from tempfile import gettempdir

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from scripts.benchmarks.common.actor_fleet import STEP_S, ActorFleet, publish_and_wait, read_hash_and_copy_s
from scripts.benchmarks.common.prepared_versions import workspace
from scripts.benchmarks.common.publishing_process import start_publisher
from scripts.benchmarks.common.result import number
from scripts.benchmarks.scale.growth import Budget, Growth
from shared.errors import HotswapError
from shared.store.policy_store import LocalPolicyStore

_LARGE_MB = 50.0
_HUGE_MB = 500.0
_TIMES = 8
_TIMES_LARGE = 3
_TIMES_HUGE = 2
_BUDGET_S = 200.0
# The acting, the last good and the standby engine, each with packed weights, and two versions to publish.
_MEMORY_FACTOR = 14
_DISK_FACTOR = 8


def grow_models(all_hidden_sizes: Sequence[tuple[int, ...]], console: Console) -> Growth:
    """Measure ascending sizes; omit, with a line, those that exceed the memory, disk or time available."""
    budget, measured_mb = Budget(_BUDGET_S), 0.0
    growth = Growth(
        "From rename to first action, one actor", "MB of weights", "MLP, ONNX, steps of 1 ms, one actor process"
    )
    for hidden_sizes in all_hidden_sizes:
        weights_mb = _weights_mb(hidden_sizes)
        factor = weights_mb / measured_mb if measured_mb > _LARGE_MB else 1
        if (lack := _lacking(weights_mb) or budget.lack(factor)) is not None:
            console.print(f"{weights_mb:,.0f} MB of weights omitted: {lack}", highlight=False)
            continue
        times = _TIMES if weights_mb < _LARGE_MB else _TIMES_LARGE if weights_mb < _HUGE_MB else _TIMES_HUGE
        try:
            adoption_ms, floor_ms = _adopt(hidden_sizes, times)
        except HotswapError as error:  # keep the results of smaller sizes
            console.print(f"{weights_mb:,.0f} MB of weights omitted: {error}", highlight=False, markup=False)
            continue
        measured_mb = weights_mb
        growth.add("adoption", weights_mb, adoption_ms)
        growth.add("one read, one SHA-256 and one copy", weights_mb, floor_ms)
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
            floor_ms.append(1e3 * read_hash_and_copy_s(LocalPolicyStore(paths.store)))
    return adoption_ms, floor_ms


def _weights_mb(hidden_sizes: tuple[int, ...]) -> float:
    sizes = (4, *hidden_sizes, 3)
    return sum(4e-6 * (n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))


def _lacking(weights_mb: float) -> str | None:
    available_mb = {
        "memory": (psutil.virtual_memory().available / 1e6, _MEMORY_FACTOR),
        "disk": (shutil.disk_usage(gettempdir()).free / 1e6, _DISK_FACTOR),
    }
    for resource, (free_mb, factor) in available_mb.items():
        if free_mb < factor * weights_mb:
            return f"{free_mb:,.0f} MB of {resource} free, {factor * weights_mb:,.0f} MB needed"
    return None
