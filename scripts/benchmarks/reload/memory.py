"""Memory growth of an acting process: resident memory after many adoptions, less that after the first 100."""

import gc
import time
from pathlib import Path

import gymnasium
import psutil  # type: ignore[import-untyped]
from msgspec.structs import replace
from rich.console import Console

from actor.agent import Agent
from actor.agent_options import AgentOptions
from scripts.benchmarks.common.helper_process import HelperProcess, serve_actor
from scripts.benchmarks.common.prepared_versions import ENV_ID, workspace
from scripts.benchmarks.common.publishing_process import start_publisher
from scripts.benchmarks.common.result import Result
from shared.errors import HotswapError
from shared.store.policy_store import LocalPolicyStore

FIRST = 100
_VERSIONS = 16
_PUBLICATIONS_PER_S = 400.0  # faster than an actor adopts
_STEPS = 4
_TIMEOUT_S = 30.0
_AT_MOST_MB = 5.0
_MB = 1e6


class Adopter:
    """Adopts each version and acts a few steps with it."""

    def __init__(self, store: Path) -> None:
        self._env = gymnasium.make(ENV_ID)
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(name="adopter"))
        self._agent.reset()
        self._observation, _ = self._env.reset(seed=0)

    def adopt(self, adoptions: int) -> int:
        """Adopt that many versions and return the resident memory in bytes."""
        goal = self._agent.adoptions + adoptions
        while self._agent.adoptions < goal:
            if not self._agent.wait_for_version(self._agent.policy.version + 1, _TIMEOUT_S):
                raise HotswapError(f"no version was published in {_TIMEOUT_S:g} s")
            self._agent.adopt()
            for _ in range(_STEPS):
                self._step()
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    def _step(self) -> None:
        self._observation, _, terminated, truncated, _ = self._env.step(self._agent.act(self._observation))
        if terminated or truncated:
            self._observation, _ = self._env.reset()


def measure_memory(adoptions: int, console: Console, *, budget_s: float) -> list[Result]:
    """Return the growth from adoption 100 until ``adoptions``, or until ``budget_s`` seconds are over."""
    with (
        workspace(versions=_VERSIONS, change=0.1) as paths,
        start_publisher(paths.prepared, paths.store) as publisher,
        HelperProcess(serve_actor, paths.logs, Adopter, paths.store) as adopter,
    ):
        publisher.call("begin", _PUBLICATIONS_PER_S)
        resident = [adopter.call("adopt", FIRST) for _ in range(2)]
        deadline_s = time.monotonic() + budget_s
        while FIRST * len(resident) < adoptions and time.monotonic() < deadline_s:
            resident.append(adopter.call("adopt", FIRST))
            if len(resident) % 20 == 0:
                console.print(f"  {FIRST * len(resident):,} adoptions, {resident[-1] / _MB:.1f} MB", highlight=False)
        publisher.call("end")
    count = FIRST * len(resident)
    how = f"resident memory of an acting process after {count:,} adoptions, less that after {FIRST}"
    growth = [(now - resident[0]) / _MB for now in resident[1:]]
    result = Result.of(f"memory growth in {count:,} adoptions", growth, "MB", how, at_most=_AT_MOST_MB)
    return [
        replace(result, value=growth[-1], reached=growth[-1] < _AT_MOST_MB and count >= adoptions),
        Result.of("memory of an acting process", [now / _MB for now in resident], "MB", how),
    ]
