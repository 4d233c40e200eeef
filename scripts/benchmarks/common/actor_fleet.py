"""Time from the rename that commits a version to the first action with it, in separate actor processes."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.process_state import short_switch_interval
from scripts.benchmarks.common.helper_process import HelperProcess
from scripts.benchmarks.common.prepared_versions import ENV_ID
from shared.errors import HotswapError
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

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
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name=name)) as agent:
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


def read_hash_and_copy_s(store: LocalPolicyStore) -> float:
    """Return the seconds for one read, one SHA-256 and one copy of the newest version's weights.

    The target memory was used before: fresh pages take longer than the read and are avoidable.
    """
    newest = store.newest()
    assert newest is not None
    files = store.open(newest)
    entry = files.manifest.files[files.manifest.weights]
    data, copy = np.ones(entry.size_bytes, np.uint8), np.ones(entry.size_bytes, np.uint8)
    with (Path(files.location) / files.manifest.weights).open("rb", buffering=0) as file:
        began_s = time.perf_counter()
        count = file.readinto(data.data)
        digest = sha256(data.data).hexdigest()
        np.copyto(copy, data)
        took_s = time.perf_counter() - began_s
    assert count == entry.size_bytes
    assert digest == entry.sha256
    return took_s
