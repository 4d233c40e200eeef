"""Whether adopting leaks: what an acting process holds after many adoptions, less what it held after the first 100."""

import gc
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.switch_interval import short_switch_interval
from scripts.benchmarks.helper_process import HelperProcess, serve
from scripts.benchmarks.prepared_versions import ENV_ID, prepare_versions
from scripts.benchmarks.publishing_process import start_publisher
from scripts.benchmarks.result import Result
from shared.errors import HotswapError
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

FIRST = 100
_VERSIONS = 16
_PUBLICATIONS_PER_S = 400.0  # faster than they can be adopted
_STEPS = 4
_WAIT_S = 30.0
_MB = 1e6


class Adopter:
    """Adopts version after version, and acts a few steps with each."""

    def __init__(self, store: Path) -> None:
        self._env = gymnasium.make(ENV_ID)
        self._agent = Agent(LocalPolicyStore(store), AgentOptions(name="adopter"))
        self._agent.reset()
        self._observation, _ = self._env.reset(seed=0)

    def adopt(self, adoptions: int) -> int:
        """Adopt that many versions; returns the resident memory afterwards, in bytes."""
        goal = self._agent.adoptions + adoptions
        while self._agent.adoptions < goal:
            if not self._agent.wait_for_version(self._agent.policy.version + 1, _WAIT_S):
                raise HotswapError(f"no version was published in {_WAIT_S:g} s")
            self._agent.adopt()
            for _ in range(_STEPS):
                self._step()
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    def _step(self) -> None:
        self._observation, _, terminated, truncated, _ = self._env.step(self._agent.act(self._observation))
        if terminated or truncated:
            self._observation, _ = self._env.reset()


def run_adopter(connection: Connection, store: Path, logs: Path) -> None:
    """What the acting process does."""
    set_up_logging("actor-0", logs, terminal_level="ERROR")
    with short_switch_interval():
        serve(connection, Adopter(store))


def measure_memory(adoptions: int, console: Console, *, budget_s: float) -> list[Result]:
    """Growth of the resident memory from adoption 100 on until there were ``adoptions``, or for ``budget_s``."""
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, logs = (Path(directory) / name for name in ("prepared", "store", "logs"))
        prepare_versions(prepared, versions=_VERSIONS, change=0.1)
        with start_publisher(prepared, store) as publisher, HelperProcess(run_adopter, store, logs) as adopter:
            publisher.call("begin", _PUBLICATIONS_PER_S)
            held = [adopter.call("adopt", FIRST) for _ in range(2)]
            deadline_s = time.monotonic() + budget_s
            while FIRST * len(held) < adoptions and time.monotonic() < deadline_s:
                held.append(adopter.call("adopt", FIRST))
                if len(held) % 20 == 0:
                    console.print(f"  {FIRST * len(held):,} adoptions, {held[-1] / _MB:.1f} MB", highlight=False)
            publisher.call("end")
    how = f"resident memory of an acting process after {len(held) * FIRST:,} adoptions less that after {FIRST}"
    growth = [(now - held[0]) / _MB for now in held[1:]]
    return [
        Result(
            row=f"memory growth in {len(held) * FIRST:,} adoptions",
            value=growth[-1],
            target=5.0,
            reached=growth[-1] < 5.0 and FIRST * len(held) >= adoptions,
            min=min(growth),
            max=max(growth),
            unit="MB",
            how=how,
        ),
        Result.of("memory of an acting process", [now / _MB for now in held], "MB", how),
    ]
