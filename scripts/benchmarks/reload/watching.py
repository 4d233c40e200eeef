"""CPU time of idle actors that wait for the next version of a store with many versions."""

import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.session.process_state import short_switch_interval
from scripts.benchmarks.common.helper_process import HelperProcess
from scripts.benchmarks.common.prepared_versions import TEMPORARY_PREFIX, add_versions, prepare_versions
from scripts.benchmarks.common.result import Result
from shared.process.log import set_up_logging
from shared.store.policy_store import LocalPolicyStore

ACTORS = 4
SETTLE_S = 6.0  # the first listings of the store are over by then


def idle(connection: Connection, store: Path) -> None:
    """Hold a policy and watch the store, until killed."""
    set_up_logging("actor-0", None, terminal_level="ERROR")
    with short_switch_interval(), Agent(LocalPolicyStore(store), AgentOptions(name="idle")) as agent:
        agent.reset()
        connection.send(agent.policy.version)
        connection.recv()


def measure_watching(versions: int, seconds: float, settle_s: float = SETTLE_S) -> list[Result]:
    """Return the CPU time of idle actors on a store of ``versions`` versions, over ``seconds`` seconds.

    The time is read from outside: an actor that reports it would wake up, which costs more than watching.
    """
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
