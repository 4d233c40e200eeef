"""What an idle actor costs: one that waits for the next version of a store that holds many."""

import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.switch_interval import short_switch_interval
from scripts.benchmarks.helper_process import HelperProcess
from scripts.benchmarks.many_versions import add_versions
from scripts.benchmarks.prepared_versions import prepare_versions
from scripts.benchmarks.result import Result
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

ACTORS = 4
SETTLE_S = 6.0  # by then it has listed the store for good, and only looks whether that has changed


def idle(connection: Connection, store: Path) -> None:
    """What an actor process does until it is killed: it holds a policy, watches the store, and does nothing else."""
    set_up_logging("actor-0", None, terminal_level="ERROR")
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name="idle")) as agent:
        agent.reset()
        connection.send(agent.policy.version)
        connection.recv()


def measure_watching(versions: int, seconds: float, settle_s: float = SETTLE_S) -> list[Result]:
    """The CPU time of idle actors over a store of so many ``versions``.

    It is read from outside: an actor that had to tell would wake up for that, which costs more than its watching.
    """
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        store = LocalPolicyStore(Path(directory), fsync=False)
        prepare_versions(store.path, versions=1, change=0.0)
        add_versions(store, range(1, versions))
        with ExitStack() as stack:
            actors = [stack.enter_context(HelperProcess(idle, store.path)) for _ in range(ACTORS)]
            for actor in actors:
                actor.receive()
            time.sleep(settle_s)
            began_s, began_cpu_s = time.perf_counter(), [actor.cpu_s() for actor in actors]
            time.sleep(seconds)
            took_s = time.perf_counter() - began_s
            cpu_s = [actor.cpu_s() - before_s for actor, before_s in zip(actors, began_cpu_s, strict=True)]
            shares = [100 * each_s / took_s for each_s in cpu_s]
    how = f"CPU time of each of {ACTORS} processes over {seconds:g} s; {versions:,} versions in the store"
    return [Result.of(f"watching {versions:,} versions, per idle actor", shares, "% of a core", how, at_most=0.1)]
