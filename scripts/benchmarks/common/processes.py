"""The publisher and the actors of a benchmark, each in its own process."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.process_state import short_switch_interval
from learner.publishing.store_maintenance import StoreMaintenance
from scripts.benchmarks.common.helper_process import HelperProcess, serve
from scripts.benchmarks.common.prepared_versions import ENV_ID, read_prepared_versions
from shared.errors import HotswapError
from shared.files.digests import digest_of
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
        """Publish in consecutive windows, each into store ``targets[window]``; return when they began (monotonic)."""
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


STEP_S = 1e-3
"""Pause after each environment step of actors that do not act at full speed."""

_TIMEOUT_S = 120.0


class FirstAction(NamedTuple):
    """The monotonic time of an actor's first action with ``version``."""

    version: int
    acted_s: float


def act_on(connection: Connection, store: Path, logs: Path, name: str, pace_s: float) -> None:
    """Adopt, act, step and report each version's first action, until killed; pause ``pace_s`` after each step."""
    set_up_logging(name, logs, terminal_level="ERROR")
    env = gymnasium.make(ENV_ID)
    observation, _ = env.reset(seed=0)
    reported = None
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name=name, sandbox=None)) as agent:
        agent.reset()
        while True:
            policy = agent.adopt()
            action = agent.act(observation)
            if policy.version != reported:
                connection.send(FirstAction(policy.version, time.monotonic()))
                reported = policy.version
            observation, _, terminated, truncated, _ = env.step(action)
            if pace_s:
                time.sleep(pace_s)
            if terminated or truncated:
                observation, _ = env.reset()


class ActorFleet(ExitStack):
    """Actor processes on one store. ``grow`` starts more of them; leaving the context kills all."""

    def __init__(self, store: Path, logs: Path, *, pace_s: float) -> None:
        super().__init__()
        self._store, self._logs, self._pace_s = store, logs, pace_s
        self._actors: list[HelperProcess] = []

    def grow(self, size: int, version: int) -> None:
        """Start actors up to ``size`` and wait until the new ones act with ``version``."""
        before = len(self._actors)
        for number in range(before, size):
            actor = HelperProcess(act_on, self._store, self._logs, f"actor-{number}", self._pace_s)
            self._actors.append(self.enter_context(actor))
        self.first_actions(version, among=self._actors[before:])

    def first_actions(self, version: int, among: Sequence[HelperProcess] | None = None) -> list[FirstAction]:
        """Wait until every actor has acted with ``version`` or a newer one; return these first actions."""
        actors = {actor.connection: actor for actor in (self._actors if among is None else among)}
        found = []
        deadline_s = time.monotonic() + _TIMEOUT_S
        while actors:
            if not (ready := wait(list(actors), deadline_s - time.monotonic())):
                raise HotswapError(f"{len(actors)} actors do not act with version {version} after {_TIMEOUT_S:g} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                first: FirstAction = actors[connection].receive()
                if first.version >= version:
                    found.append(first)
                    del actors[connection]
        return found


def publish_and_wait(publisher: HelperProcess, fleet: ActorFleet) -> float:
    """Publish a version; return the seconds from its rename to the first action with it in the last actor."""
    published = publisher.call("publish")
    return max(first.acted_s for first in fleet.first_actions(published.version)) - float(published.renaming_s)


def read_digest_and_copy_s(store: LocalPolicyStore) -> float:
    """Return the seconds for one read, one digest (the manifest's) and one copy of the newest version's weights."""
    newest = store.newest()
    assert newest is not None
    files = store.open(newest)
    entry = files.manifest.files[files.manifest.weights]
    # Fresh pages would take longer than the read.
    data, copy = np.ones(entry.size_bytes, np.uint8), np.ones(entry.size_bytes, np.uint8)
    with (Path(files.location) / files.manifest.weights).open("rb", buffering=0) as file:
        began_s = time.perf_counter()
        count = file.readinto(data.data)
        digest = digest_of(entry.digest_name, data.data)
        np.copyto(copy, data)
        took_s = time.perf_counter() - began_s
    assert count == entry.size_bytes
    assert digest == entry.hexdigest
    return took_s
