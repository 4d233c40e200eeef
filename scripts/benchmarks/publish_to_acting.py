"""From the rename that commits a version to the first action by it, in actor processes of their own."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import gymnasium

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.switch_interval import short_switch_interval
from scripts.benchmarks.helper_process import HelperProcess
from scripts.benchmarks.prepared_versions import ENV_ID
from shared.errors import HotswapError
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

_PATIENCE_S = 120.0


class FirstAction(NamedTuple):
    """An actor's first action by ``version``, on the machine's monotonic clock, and what ran it."""

    version: int
    acted_s: float
    method: str


def act_on(connection: Connection, store: Path, logs: Path, name: str, pace_s: float) -> None:
    """What an actor process does until it is killed: adopt, act, step, and tell of each version's first action.

    ``pace_s``: what a step of the environment takes, beside CartPole's own few microseconds.
    """
    set_up_logging(name, logs, terminal_level="ERROR")
    env = gymnasium.make(ENV_ID)
    observation, _ = env.reset(seed=0)
    told = None
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name=name)) as agent:
        agent.reset()
        while True:
            policy = agent.adopt()
            action = agent.act(observation)
            if policy.version != told:
                connection.send(FirstAction(policy.version, time.monotonic(), policy.engine_name))
                told = policy.version
            observation, _, terminated, truncated, _ = env.step(action)
            if pace_s:
                time.sleep(pace_s)
            if terminated or truncated:
                observation, _ = env.reset()


class ActorFleet:
    """Actor processes on one store. ``grow`` starts more of them; leaving the context ends them all."""

    def __init__(self, store: Path, logs: Path, *, pace_s: float) -> None:
        self._store = store
        self._logs = logs
        self._pace_s = pace_s
        self._actors: list[HelperProcess] = []
        self._stack = ExitStack()

    def grow(self, size: int, version: int) -> None:
        """Have ``size`` actors, all of them acting with ``version`` when this returns."""
        new = range(len(self._actors), size)
        for number in new:
            actor = HelperProcess(act_on, self._store, self._logs, f"actor-{number}", self._pace_s)
            self._actors.append(self._stack.enter_context(actor))
        self.first_actions(version, among=self._actors[new.start :])

    def first_actions(self, version: int, among: Sequence[HelperProcess] | None = None) -> list[FirstAction]:
        """Wait until every actor has acted with ``version``; their first actions by it, or by a newer one."""
        actors = {actor.connection: actor for actor in (self._actors if among is None else among)}
        found = []
        deadline_s = time.monotonic() + _PATIENCE_S
        while actors:
            ready = wait(list(actors), deadline_s - time.monotonic())
            if not ready:
                raise HotswapError(f"version {version} does not act in {len(actors)} actors after {_PATIENCE_S:g} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                first: FirstAction = actors[connection].receive()
                if first.version >= version:
                    found.append(first)
                    del actors[connection]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def publish_and_wait(publisher: HelperProcess, fleet: ActorFleet) -> float:
    """Seconds from the rename of the next version to the first action by it in the last of the actors."""
    published = publisher.call("publish")
    return max(first.acted_s for first in fleet.first_actions(published.version)) - float(published.renaming_s)
