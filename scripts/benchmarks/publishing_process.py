"""The publisher of a benchmark: a process that publishes from a prepared, one version at a call or many a second."""

import os
import sys
import threading
import time
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from learner.publishing.store_maintenance import StoreMaintenance
from scripts.benchmarks.helper_process import HelperProcess, serve
from scripts.benchmarks.prepared_versions import read_prepared_versions
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore, Retention, parse_version_name


class Published(NamedTuple):
    """One publication. ``renaming_s`` is on the machine's monotonic clock, as the rename that commits was called."""

    version: int
    renaming_s: float
    duration_s: float


def start_publisher(
    prepared: Path, store: Path, *, keep_newest: int = 20, elsewhere: Path | None = None
) -> HelperProcess:
    """A process that serves a ``Publisher``, which has read its prepared."""
    process = HelperProcess(run_publisher, prepared, store, keep_newest, elsewhere)
    process.receive()
    return process


def run_publisher(
    connection: Connection, prepared: Path, store: Path, keep_newest: int, elsewhere: Path | None
) -> None:
    """What the process does."""
    set_up_logging("publisher", None, terminal_level="ERROR")
    publisher = Publisher(prepared, store, keep_newest, elsewhere)
    connection.send("ready")
    serve(connection, publisher)


class Publisher:
    """Publishes what lies on a prepared, over and over, under ever new numbers; old versions are swept meanwhile.

    ``elsewhere``: another store, which nobody watches.
    """

    def __init__(self, prepared: Path, store: Path, keep_newest: int, elsewhere: Path | None = None) -> None:
        self._following = cycle(read_prepared_versions(prepared))
        self._stores = [LocalPolicyStore(path) for path in (store, elsewhere) if path is not None]
        self._keepers = [StoreMaintenance(one, Retention(keep_newest)) for one in self._stores]
        self._renaming_s = 0.0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._published = 0
        sys.addaudithook(self._hear)

    def publish(self, to: int = 0) -> Published:
        """Publish the next one now; ``to`` 1 does so elsewhere."""
        began_s = time.monotonic()
        manifest = next(self._following).publish(self._stores[to])
        duration_s = time.monotonic() - began_s
        self._keepers[to].published(manifest)
        self._published += 1
        return Published(manifest.version, self._renaming_s, duration_s)

    def begin(self, per_second: float) -> None:
        """Publish ``per_second`` times a second from now on."""
        self._ending.clear()
        self._published = 0
        self._thread = threading.Thread(target=self._publish_regularly, args=(1 / per_second,), daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Stop publishing; returns how many versions it were since ``begin``."""
        assert self._thread is not None
        self._ending.set()
        self._thread.join()
        return self._published

    def alternate(self, per_second: float, window_s: float, windows: int) -> float:
        """Publish regularly, in windows of time that follow each other: elsewhere in the first, not in the second, …

        Returns when the first began, on the machine's monotonic clock.
        """
        began_s = time.monotonic()
        in_window = round(per_second * window_s)
        for window in range(windows):
            for k in range(in_window):
                time.sleep(max(0.0, began_s + window * window_s + k / per_second - time.monotonic()))
                self.publish(to=1 - window % 2)
        return began_s

    def _publish_regularly(self, period_s: float) -> None:
        next_s = time.monotonic()
        while not self._ending.wait(max(0.0, next_s - time.monotonic())):
            self.publish()
            next_s = max(next_s + period_s, time.monotonic() - period_s)  # what was missed is not made up for

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Python tells of every rename as it is called: the moment before which nobody can see the version."""
        if event == "os.rename":
            name = os.path.basename(os.fspath(arguments[1]))  # type: ignore[call-overload]  # noqa: PTH119
            if parse_version_name(name) is not None:
                self._renaming_s = time.monotonic()
