"""The publisher of a benchmark: a process that publishes prepared versions, one for each call or many per second."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from learner.publishing.store_maintenance import StoreMaintenance
from scripts.benchmarks.common.helper_process import HelperProcess, serve
from scripts.benchmarks.common.prepared_versions import read_prepared_versions
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore, Retention, parse_version_name


class Published(NamedTuple):
    """One publication. ``renaming_s`` is the monotonic time at which the committing rename was called."""

    version: int
    renaming_s: float
    duration_s: float


def start_publisher(prepared: Path, *stores: Path, keep_newest: int = 20) -> HelperProcess:
    """Start a process that serves a ``Publisher`` and wait until it has read the prepared versions."""
    process = HelperProcess(run_publisher, prepared, stores, keep_newest)
    process.receive()
    return process


def run_publisher(connection: Connection, *arguments: Any) -> None:
    set_up_logging("publisher", None, terminal_level="ERROR")
    publisher = Publisher(*arguments)
    connection.send("ready")
    serve(connection, publisher)


class Publisher:
    """Publishes the prepared versions in a cycle, under new numbers, and sweeps old versions."""

    def __init__(self, prepared: Path, stores: Sequence[Path], keep_newest: int) -> None:
        self._versions = cycle(read_prepared_versions(prepared))
        self._stores = [LocalPolicyStore(path) for path in stores]
        self._maintenance = [StoreMaintenance(store, Retention(keep_newest)) for store in self._stores]
        self._renaming_s = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        sys.addaudithook(self._on_audit_event)

    def publish(self, to: int = 0) -> Published:
        """Publish the next version into store number ``to``."""
        began_s = time.monotonic()
        manifest = next(self._versions).publish(self._stores[to])
        duration_s = time.monotonic() - began_s
        self._maintenance[to].published(manifest)
        return Published(manifest.version, self._renaming_s, duration_s)

    def begin(self, per_second: float, to: int = 0) -> None:
        """Publish ``per_second`` versions a second until ``end``."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._publish_regularly, args=(1 / per_second, to), daemon=True)
        self._thread.start()

    def end(self) -> None:
        assert self._thread is not None
        self._stopping.set()
        self._thread.join()

    def publish_in_windows(self, per_second: float, window_s: float, targets: Sequence[int]) -> float:
        """Publish regularly in consecutive windows, each into store number ``targets[window]``.

        Return the monotonic time at which the first window began, in seconds.
        """
        began_s = time.monotonic()
        for window, to in enumerate(targets):
            for k in range(round(per_second * window_s)):
                time.sleep(max(0.0, began_s + window * window_s + k / per_second - time.monotonic()))
                self.publish(to)
        return began_s

    def _publish_regularly(self, period_s: float, to: int) -> None:
        next_s = time.monotonic()
        while not self._stopping.wait(max(0.0, next_s - time.monotonic())):
            self.publish(to)
            next_s = max(next_s + period_s, time.monotonic() - period_s)  # missed publications are not caught up

    def _on_audit_event(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note the time before the rename that makes a version visible."""
        if event == "os.rename":
            name = os.path.basename(os.fspath(arguments[1]))  # type: ignore[call-overload]  # noqa: PTH119
            if parse_version_name(name) is not None:
                self._renaming_s = time.monotonic()
