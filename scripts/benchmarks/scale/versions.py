"""Time of store operations by number of versions in the store."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from actor.watching.policy_watcher import PolicyWatcher
from scripts.benchmarks.common.prepared_versions import (
    TEMPORARY_PREFIX,
    PreparedVersion,
    add_versions,
    prepare_versions,
    read_prepared_versions,
)
from scripts.benchmarks.scale.growth import Budget, Growth
from shared.store.policy_store import LocalPolicyStore, Retention

_TIMES = 5
_BUDGET_S = 120.0
_MEMORY_DISK = Path("/dev/shm")
_MEMORY_DISK_BYTES = 3e9


def grow_versions(counts: Sequence[int], console: Console) -> Growth:
    """Measure ascending ``counts`` of versions in one store; omit those that exceed the time budget."""
    place = _place()
    where = "a directory on disk" if place is None else "a directory in memory"
    growth = Growth(f"Store operations in {where}", "versions in the store", f"{where}; {_TIMES} repetitions")
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=place) as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        prepare_versions(store.path, versions=1, change=0.0)
        (prepared,) = read_prepared_versions(store.path)
        budget, measured = Budget(_BUDGET_S), 1
        for count in counts:
            if (lack := budget.lack(count / measured)) is not None:
                console.print(f"{count:,} versions omitted: {lack}", highlight=False)
                break
            newest = store.newest()
            assert newest is not None
            first = newest - len(store.versions()) + 1
            add_versions(store, range(newest + 1, first + count))
            _measure(growth, store, prepared, count)
            measured = count
        console.print(f"removing {measured:,} versions …", highlight=False)
    return growth


def _place() -> Path | None:
    """Return a directory in memory if there is one: a disk takes minutes to remove 100,000 directories."""
    has_room = _MEMORY_DISK.is_dir() and shutil.disk_usage(_MEMORY_DISK).free > _MEMORY_DISK_BYTES
    return _MEMORY_DISK if has_room else None


def _measure(growth: Growth, store: LocalPolicyStore, prepared: PreparedVersion, count: int) -> None:
    newest = store.newest()
    assert newest is not None
    watcher = PolicyWatcher(store)

    def publish() -> None:
        prepared.publish(store)

    def sweep() -> None:
        store.sweep(Retention(keep_newest=count))

    operations: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "list": (_nothing, store.versions),
        "open newest": (_nothing, lambda: store.open(newest)),
        "publish": (_nothing, publish),
        "sweep of one": (publish, sweep),
        "watcher, new version": (_nothing, lambda: watcher.check(force=True)),
    }
    sweep()
    for name, (prepare, operation) in operations.items():
        growth.add(name, count, [_time_ms(prepare, operation) for _ in range(_TIMES)])
        if operation is publish:
            sweep()


def _nothing() -> None:
    pass


def _time_ms(prepare: Callable[[], object], operation: Callable[[], object]) -> float:
    prepare()
    began_s = time.perf_counter()
    operation()
    return 1e3 * (time.perf_counter() - began_s)
