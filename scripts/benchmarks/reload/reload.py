"""``benchmark.py reload``: the cost of replacing the policy for the environment loop, and the integrity of actions."""

import gc
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import psutil  # type: ignore[import-untyped]
from msgspec.structs import replace
from rich.console import Console

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.process_state import short_switch_interval
from scripts.benchmarks.common.helper_process import HelperProcess, serve_actor
from scripts.benchmarks.common.prepared_versions import (
    ENV_ID,
    TEMPORARY_PREFIX,
    add_versions,
    prepare_versions,
    workspace,
)
from scripts.benchmarks.common.processes import start_publisher
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.rounds import BenchmarkSettings
from scripts.benchmarks.reload.action_integrity import measure_action_integrity
from scripts.benchmarks.reload.step_times import measure_prefetching, measure_step_times
from shared.errors import HotswapError
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

FIRST = 100
_MEMORY_VERSIONS = 16
_PUBLICATIONS_PER_S = 400.0  # faster than an actor adopts
_STEPS = 4
_TIMEOUT_S = 30.0
_AT_MOST_MB = 5.0
_MB = 1e6


class Adopter:
    """Adopts each version and acts a few steps with it."""

    def __init__(self, store: Path) -> None:
        self._env = gymnasium.make(ENV_ID)
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(name="adopter", sandbox=None))
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
                self._observation, _, terminated, truncated, _ = self._env.step(self._agent.act(self._observation))
                if terminated or truncated:
                    self._observation, _ = self._env.reset()
        gc.collect()
        return int(psutil.Process().memory_info().rss)


def measure_memory(adoptions: int, console: Console, *, budget_s: float) -> list[Result]:
    """Return the growth from adoption 100 until ``adoptions``, or until ``budget_s`` seconds are over."""
    with (
        workspace(versions=_MEMORY_VERSIONS, change=0.1) as paths,
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


ACTORS = 4
SETTLE_S = 6.0  # the first listings of the store are over by then


def idle(connection: Connection, store: Path) -> None:
    """Hold a policy and watch the store, until killed."""
    set_up_logging("actor-0", None, terminal_level="ERROR")
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name="idle", sandbox=None)) as agent:
        agent.reset()
        connection.send(agent.policy.version)
        connection.recv()


def measure_watching(versions: int, seconds: float, settle_s: float = SETTLE_S) -> list[Result]:
    """Return the CPU time of idle actors on a store of ``versions`` versions, read from outside without waking them."""
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory, ExitStack() as stack:
        store = LocalPolicyStore(Path(directory), fsync=False)
        prepare_versions(store.path, versions=1, change=0.0)
        add_versions(store, range(1, versions))
        actors = [stack.enter_context(HelperProcess(idle, store.path)) for _ in range(ACTORS)]
        for actor in actors:
            actor.receive()
        time.sleep(settle_s)
        began_s, began_cpu_s = time.perf_counter(), [actor.cpu_s() for actor in actors]
        time.sleep(seconds)
        took_s = time.perf_counter() - began_s
        shares = [100 * (actor.cpu_s() - cpu_s) / took_s for actor, cpu_s in zip(actors, began_cpu_s, strict=True)]
    how = f"CPU time of each of {ACTORS} processes over {seconds:g} s; {versions:,} versions in the store"
    return [Result.of(f"watching {versions:,} versions, per idle actor", shares, "% of a core", how, at_most=0.1)]


_TRANSITIONS = 10_000_000
_ADOPTIONS = 10_000
_BUDGET_S = 100.0  # for each of these two; on a slow machine the result states how many there were
_IDLE_S = 60.0
_WATCHED_VERSIONS = 1_000


def measure_reload(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return all results of this kind. Actors run in their own processes beside a publishing process."""
    console.print("step times with and without adoptions …")
    results = measure_step_times(settings.rounds)
    console.print("step times with and without the prefetcher …")
    results += measure_prefetching(settings.rounds, console)
    console.print(f"{_TRANSITIONS:,} transitions, each computed again …")
    results += measure_action_integrity(_TRANSITIONS, console, budget_s=_BUDGET_S)
    console.print(f"memory after {_ADOPTIONS:,} adoptions …")
    results += measure_memory(_ADOPTIONS, console, budget_s=_BUDGET_S)
    console.print(f"watching a store of {_WATCHED_VERSIONS:,} versions …")
    return results + measure_watching(_WATCHED_VERSIONS, _IDLE_S)
