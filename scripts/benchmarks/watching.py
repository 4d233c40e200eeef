"""What an idle actor costs: one that waits for the next version of a store that holds many."""

import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from actor.agent import Agent
from scripts.benchmarks.helper_process import HelperProcess, serve
from scripts.benchmarks.many_versions import add_versions
from scripts.benchmarks.row import Row
from scripts.benchmarks.shelf import make_shelf
from shared.log import set_up_logging
from shared.policy_store import LocalPolicyStore

ACTORS = 4
_SETTLE_S = 2.5  # until a listing counts as settled


class IdleActor:
    """Holds a policy, watches the store, and does nothing else."""

    def __init__(self, store: Path) -> None:
        self._agent = Agent(LocalPolicyStore(store), num_envs=None, name="idle")
        self._agent.reset()

    def cpu_share(self, seconds: float) -> float:
        """CPU time of this process over that of a core, in percent."""
        time.sleep(_SETTLE_S)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return 100 * (time.process_time() - began_cpu_s) / (time.perf_counter() - began_s)


def run_idle_actor(connection: Connection, store: Path) -> None:
    """What the process does."""
    set_up_logging("actor-0", None, terminal_level="ERROR")
    serve(connection, IdleActor(store))


def measure_watching(versions: int, seconds: float) -> list[Row]:
    """The CPU time of idle actors, one after another, over a store of so many ``versions``."""
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        make_shelf(store.path, versions=1, change=0.0)
        add_versions(store, range(1, versions))
        with ExitStack() as stack:
            actors = [stack.enter_context(HelperProcess(run_idle_actor, store.path)) for _ in range(ACTORS)]
            for actor in actors:
                actor.ask("cpu_share", seconds)
            shares = [actor.receive() for actor in actors]
    how = f"CPU time of each of {ACTORS} processes over {seconds:g} s; {versions:,} versions in the store"
    return [Row.of(f"watching {versions:,} versions, per idle actor", shares, "% of a core", how, at_most=0.1)]
