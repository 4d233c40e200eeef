"""Adoption time against model size: from the rename that commits a version to one actor's first action by it."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from scripts.benchmarks.growth import Budget, Growth
from scripts.benchmarks.prepared_versions import prepare_versions
from scripts.benchmarks.publish import STEP_S, read_hash_and_copy_s
from scripts.benchmarks.publish_to_acting import ActorFleet, publish_and_wait
from scripts.benchmarks.publishing_process import start_publisher
from scripts.benchmarks.result import number
from shared.errors import HotswapError
from shared.store.policy_store import LocalPolicyStore

_LARGE_MB = 50.0
_HUGE_MB = 500.0
_TIMES = 8
_TIMES_LARGE = 3
_TIMES_HUGE = 2
_BUDGET_S = 200.0
# The acting, the last good and the standby engine, each with what ONNX Runtime packs, and two versions to publish.
_MEMORY_FACTOR = 14
_DISK_FACTOR = 8


def grow_models(all_hidden_sizes: Sequence[tuple[int, ...]], console: Console) -> Growth:
    """Each size where memory, disk and time allow it; a line says which are left out. Sizes ascend."""
    budget, measured_mb = Budget(_BUDGET_S), 0.0
    growth = Growth(
        "From rename to first action, one actor", "MB of weights", "MLP, ONNX, steps of 1 ms, one actor process"
    )
    for hidden_sizes in all_hidden_sizes:
        weights_mb = _weights_mb(hidden_sizes)
        factor = weights_mb / measured_mb if measured_mb > _LARGE_MB else 1
        if (lack := _lacking(weights_mb) or budget.lack(factor)) is not None:
            console.print(f"{weights_mb:,.0f} MB of weights are left out: {lack}", highlight=False)
            continue
        times = _TIMES if weights_mb < _LARGE_MB else _TIMES_LARGE if weights_mb < _HUGE_MB else _TIMES_HUGE
        try:
            adoption_ms, floor_ms = _adopt(hidden_sizes, times)
        except HotswapError as error:  # what was measured of smaller ones is worth keeping
            console.print(f"{weights_mb:,.0f} MB of weights are left out: {error}", highlight=False, markup=False)
            continue
        measured_mb = weights_mb
        growth.add("adoption", weights_mb, adoption_ms)
        growth.add("one read, one SHA-256 and one copy", weights_mb, floor_ms)
        median_ms = float(np.median(adoption_ms))
        console.print(f"  {number(weights_mb)} MB: {number(median_ms)} ms", highlight=False)
    return growth


def _adopt(hidden_sizes: tuple[int, ...], times: int) -> tuple[list[float], list[float]]:
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, logs = (Path(directory) / name for name in ("prepared", "store", "logs"))
        prepare_versions(prepared, versions=2, change=0.1, hidden_sizes=hidden_sizes, onnx_alone=True)
        with (
            start_publisher(prepared, store, keep_newest=2) as publisher,
            ActorFleet(store, logs, pace_s=STEP_S) as fleet,
        ):
            fleet.grow(1, publisher.call("publish").version)
            publish_and_wait(publisher, fleet)  # the second load is the first that has a spare to write to
            publish_and_wait(publisher, fleet)
            adoption_ms, floor_ms = [], []
            for _ in range(times):
                adoption_ms.append(1e3 * publish_and_wait(publisher, fleet))
                floor_ms.append(1e3 * read_hash_and_copy_s(LocalPolicyStore(store)))
    return adoption_ms, floor_ms


def _weights_mb(hidden_sizes: tuple[int, ...]) -> float:
    """Of the network with one trunk that the prepared makes of these."""
    sizes = (4, *hidden_sizes, 3)
    return sum(4e-6 * (n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))


def _lacking(weights_mb: float) -> str | None:
    memory_mb = psutil.virtual_memory().available / 1e6
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        disk_mb = shutil.disk_usage(directory).free / 1e6
    if memory_mb < _MEMORY_FACTOR * weights_mb:
        return f"{memory_mb:,.0f} MB of memory are free, and {_MEMORY_FACTOR * weights_mb:,.0f} MB are needed"
    if disk_mb < _DISK_FACTOR * weights_mb:
        return f"{disk_mb:,.0f} MB of disk are free, and {_DISK_FACTOR * weights_mb:,.0f} MB are needed"
    return None
