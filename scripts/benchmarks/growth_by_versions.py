"""What each store operation costs against the number of versions in the store."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from actor.policy_watcher import PolicyWatcher
from scripts.benchmarks.growth import Growth
from scripts.benchmarks.many_versions import add_versions
from scripts.benchmarks.shelf import PreparedVersion, make_shelf, read_shelf
from shared.policy_store import LocalPolicyStore, Retention

_TIMES = 7


def grow_versions(counts: Sequence[int], console: Console) -> Growth:
    """Counts ascend: one store grows from each to the next."""
    growth = Growth("Store operations", "versions in the store", f"a directory of this machine; {_TIMES} times each")
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        make_shelf(store.path, versions=1, change=0.0)
        (prepared,) = read_shelf(store.path)
        for count in counts:
            newest = store.newest()
            assert newest is not None
            first = newest - len(store.versions()) + 1
            add_versions(store, range(newest + 1, first + count))
            _measure(growth, store, prepared, count)
        console.print(f"removing {counts[-1]:,} versions …", highlight=False)
    return growth


def _measure(growth: Growth, store: LocalPolicyStore, prepared: PreparedVersion, count: int) -> None:
    newest = store.newest()
    assert newest is not None
    watcher = PolicyWatcher(store, lambda: None)

    def publish() -> None:
        prepared.publish(store)

    def sweep() -> None:
        store.sweep(Retention(keep_newest=count))

    operations: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "list": (_nothing, store.versions),
        "open newest": (_nothing, lambda: store.open(newest)),
        "publish": (_nothing, publish),
        "sweep of one": (publish, sweep),
        "watcher, something new": (_nothing, lambda: watcher.check(force=True)),
    }
    sweep()
    for name, (prepare, operation) in operations.items():
        growth.add(name, count, [_time_ms(prepare, operation) for _ in range(_TIMES)])
        sweep()


def _nothing() -> None:
    pass


def _time_ms(prepare: Callable[[], object], operation: Callable[[], object]) -> float:
    prepare()
    began_s = time.perf_counter()
    operation()
    return 1e3 * (time.perf_counter() - began_s)
