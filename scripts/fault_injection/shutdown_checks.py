"""The end of a chaos run: Ctrl-C for all processes, and checks of everything that is left."""

import signal
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from statistics import median

from scripts.fault_injection.invariants import Invariant
from scripts.fault_injection.processes import command_of
from scripts.fault_injection.published import tracebacks
from scripts.fault_injection.rare_programs import NAME as TRUSTING_ACTOR
from scripts.fault_injection.run_state import RunState
from shared.errors import HotswapError
from shared.process.command_line import INTERRUPTED
from shared.transport.addresses import LOCAL_ADDRESS, LocalSocket, resolve_address

_STOPPED_WITHIN_S = 3.0
_BUSY_ALLOWANCE_S = 12.0
_TRAINS_WITHIN_S = 120.0
_POLL_S = 0.05
_MOST_ENDINGS = 3
_ACTS_AGAIN_WITHIN_S = 1.0
_FEWEST_RESTARTS = 5  # for a judgement of their median


def trains(state: RunState, since_unix_s: float) -> bool:
    """Return True when the learner has made an update since ``since_unix_s``."""
    with suppress(HotswapError):
        progress = state.run.progress()
        return progress is not None and progress.phase == "training" and progress.updated_unix_s > since_unix_s
    return False


def shut_down(state: RunState) -> None:
    """Send invalid rollouts, interrupt all processes, and check accounts, restarts, leaks and logs."""
    invariants = state.invariants
    in_time: Invariant = "Ctrl-C ends all processes in time"
    state.invalid_rollouts.check_rejection()
    began_s = time.monotonic()
    processes = {"training": state.training.process} | {name: one.process for name, one in state.inference.items()}
    processes[TRUSTING_ACTOR] = state.rare_programs.process
    for process in processes.values():
        process.send_signal(signal.SIGINT)
    for name, process in processes.items():
        try:
            code = process.wait(began_s + _STOPPED_WITHIN_S + _BUSY_ALLOWANCE_S - time.monotonic())
        except subprocess.TimeoutExpired:
            invariants.violated(in_time, f"{name} is running after {time.monotonic() - began_s:.1f} s")
            continue
        invariants.measured(in_time, time.monotonic() - began_s)
        invariants.check(in_time, code == INTERRUPTED, f"{name} ended with exit code {code}")
    state.logs.check(state.published, invariants)
    for actor in state.inference.values():
        actor.check(state.published, invariants)
    invariants.check("only published versions act", state.logs.adoptions > 0, "the logs have no line of an adoption")
    _check_accounts(state)
    _check_restarts(state)
    _check_leaks(state)
    found = tracebacks([state.run.logs, state.environment.outputs])
    invariants.check("no tracebacks in logs", not found, f"{len(found)} tracebacks: {', '.join(found[:10])}")
    invariants.notes["kills"] = str(sum(n for fault, n in invariants.faults.items() if fault.startswith("kill")))
    state.lost_work.add_note()
    published, corrupted = len(state.published.digests), len(state.published.corrupted)
    invariants.notes["versions"] = f"{published} published, {corrupted} corrupted"
    invariants.notes["longest time without an episode of an inference actor"] = f"{state.longest_silence_s:.1f} s"


def _check_accounts(state: RunState) -> None:
    balance: Invariant = "rollout accounts balance"
    endings = 1
    while (summary := state.run.summary()) is None and endings < _MOST_ENDINGS:
        state.invariants.print("no summary: the learner was killed before its end; training resumed")
        began_unix_s = time.time()
        state.training.resume()
        deadline_s = time.monotonic() + _TRAINS_WITHIN_S
        while not trains(state, began_unix_s) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        state.training.process.send_signal(signal.SIGINT)
        state.training.process.wait()
        endings += 1
    if summary is None:
        state.invariants.violated(balance, f"no summary: the learner did not end in time, {_MOST_ENDINGS} times")
        return
    accounts = summary.rollouts
    state.invariants.notes["rollouts"] = str(accounts)
    total = accounts.learned + accounts.stale + accounts.invalid + accounts.lost
    message = f"{accounts.sent} sent, {total} accounted for: {accounts}"
    state.invariants.check(balance, accounts.sent == total, message)
    state.invalid_rollouts.check_count(accounts.invalid)


def _check_restarts(state: RunState) -> None:
    restarts, imports = state.invariants.seconds("a killed actor acts again"), state.import_times_s
    if not restarts or not imports:
        return
    state.invariants.notes["restarts of inference actors"] = (
        f"{len(restarts)}: median {median(restarts):.2f} s, max {max(restarts):.2f} s; imports alone "
        f"({len(imports)}): median {median(imports):.2f} s, max {max(imports):.2f} s"
    )
    added_s = median(restarts) - median(imports)
    state.invariants.check(
        "a killed actor acts again",
        added_s <= _ACTS_AGAIN_WITHIN_S or min(len(restarts), len(imports)) < _FEWEST_RESTARTS,
        f"restarts take {added_s:.2f} s more than the imports (median)",
    )


def _check_leaks(state: RunState) -> None:
    invariants = state.invariants
    state.finish_import()
    left = [f"{process.pid} ({command_of(process.pid)})" for process in state.marked_processes()]
    invariants.check("no orphans, no zombies", not left, f"still running: {', '.join(left)}")
    address = resolve_address(LOCAL_ADDRESS, state.run.path)
    with closing(LocalSocket(address)) as local:
        invariants.check("no leaked resources", not local.is_served(), f"the socket {address} is still open")
    leaked = state.environment.leaked()
    invariants.check("no leaked resources", not leaked, f"{len(leaked)} files left: {', '.join(leaked[:5])}")
    run = state.run
    partial = [*run.path.glob(".*"), *run.checkpoints.glob(".*"), *filter(Path.exists, state.abandoned)]
    names = ", ".join(str(path.relative_to(run.path)) for path in partial[:5])
    invariants.check("no leaked resources", not partial, f"partly written files left: {names}")
