"""The end of a chaos run: all of it is stopped as a person does it, and what is left is looked at."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from scripts.fault_injection.processes import tracebacks
from scripts.fault_injection.run_state import RunState, command_of
from shared.errors import HotswapError
from shared.process.command_line import INTERRUPTED

_STOPPED_WITHIN_S = 3.0
_LOAD_ALLOWANCE_S = 12.0
_WELL_WITHIN_S = 120.0
_LOOK_AGAIN_S = 0.05
_ENDINGS = 3
_ACTS_AGAIN_WITHIN_S = 1.0
_RESTARTS_TO_JUDGE_BY = 5


def trains(state: RunState, since_unix_s: float) -> bool:
    """Whether the learner has made an update since then."""
    with suppress(HotswapError):
        progress = state.run.progress()
        return progress is not None and progress.phase == "training" and progress.updated_unix_s > since_unix_s
    return False


def end(state: RunState) -> None:
    """Invalid rollouts, then Ctrl-C to all of it; then nothing may be left, and the books must balance."""
    invariants = state.invariants
    state.invalid_rollouts.must_be_rejected()
    began_s = time.monotonic()
    for process in (state.training.process, *(actor.process for actor in state.inference.values())):
        process.send_signal(signal.SIGINT)
    for name, process in (
        ("train.py", state.training.process),
        *((actor.name, actor.process) for actor in state.inference.values()),
    ):
        try:
            code = process.wait(began_s + _STOPPED_WITHIN_S + _LOAD_ALLOWANCE_S - time.monotonic())
        except subprocess.TimeoutExpired:
            invariants.broken("Ctrl-C ends all in time", f"{name} goes on after {time.monotonic() - began_s:.1f} s")
            continue
        invariants.measured("Ctrl-C ends all in time", time.monotonic() - began_s)
        invariants.hold("Ctrl-C ends all in time", code == INTERRUPTED, f"{name} ended with exit code {code}")
    state.logs.look(state.published, invariants)
    for actor in state.inference.values():
        actor.look(state.published, invariants)
    _check_accounts(state)
    _check_restarts(state)
    _check_leaks(state)
    found = tracebacks([state.run.logs, state.environment.outputs])
    invariants.hold("logs free of tracebacks", not found, f"{len(found)} there: {', '.join(found[:10])}")
    kills = sum(times for fault, times in invariants.faults.items() if fault.startswith("kill"))
    invariants.notes["kills"] = str(kills)
    state.lost_work.note()
    invariants.notes["versions"] = (
        f"{len(state.published.digests)} published, {len(state.published.corrupted)} corrupted"
    )
    invariants.notes["longest silence of a inference actor"] = f"{state.longest_silence_s:.1f} s"


def _check_accounts(state: RunState) -> None:
    summary = state.run.summary()
    for _ in range(_ENDINGS - 1):
        if summary is not None:
            break
        state.invariants.say("no summary: the learner did not end in time, and was killed; train.py --resume")
        _end_again(state)
        summary = state.run.summary()
    if summary is None:
        state.invariants.broken("accounts exact", f"there is no summary: the learner ended late {_ENDINGS} times")
        return
    books = summary.rollouts
    state.invariants.notes["rollouts"] = str(books)
    placed = books.learned + books.stale + books.invalid + books.lost
    state.invariants.hold("accounts exact", books.sent == placed, f"{books.sent} sent, {placed} accounted for: {books}")
    state.invalid_rollouts.may_be_invalid(books.invalid)


def _end_again(state: RunState) -> None:
    """Resume the training, and end it once it trains."""
    began_unix_s = time.time()
    state.training.resume()
    deadline_s = time.monotonic() + _WELL_WITHIN_S
    while not trains(state, began_unix_s) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_AGAIN_S)
    state.training.process.send_signal(signal.SIGINT)
    state.training.process.wait()


def _check_restarts(state: RunState) -> None:
    again, imports = state.invariants.seconds("a killed actor acts again"), state.import_times_s
    if not again or not imports:
        return
    state.invariants.notes["restarts of inference actors"] = (
        f"{len(again)}: median {median(again):.2f} s, max {max(again):.2f} s; imports alone "
        f"({len(imports)}): median {median(imports):.2f} s, max {max(imports):.2f} s"
    )
    beside_s = median(again) - median(imports)
    state.invariants.hold(
        "a killed actor acts again",
        beside_s <= _ACTS_AGAIN_WITHIN_S or min(len(again), len(imports)) < _RESTARTS_TO_JUDGE_BY,
        f"it takes {beside_s:.2f} s beside the imports of its interpreter, at the median",
    )


def _check_leaks(state: RunState) -> None:
    invariants = state.invariants
    state.finish_import()
    left = [f"{process.pid} ({command_of(process.pid)})" for process in state.marked()]
    invariants.hold("no orphan, no zombie", not left, f"these live on: {', '.join(left)}")
    address = state.address() or ""
    sockets = Path("/proc/net/unix").read_text().splitlines()
    open_still = [line for line in sockets if line.endswith(address.removeprefix("ipc://")) and address]
    invariants.hold("nothing leaked", not open_still, f"the socket {address} is still there")
    leaked = state.environment.leaked()
    invariants.hold("nothing leaked", not leaked, f"{len(leaked)} are left: {', '.join(leaked[:5])}")
    hidden = [str(path.relative_to(state.run.path)) for path in _hidden_files(state)]
    invariants.hold("nothing leaked", not hidden, f"half-written files are left: {', '.join(hidden[:5])}")


def _hidden_files(state: RunState) -> list[Path]:
    """What a process that was killed was writing, and nobody took away."""
    run = state.run
    found = [*run.path.glob(".*"), *run.checkpoints.glob(".*")]
    return found + [path for path in state.abandoned if path.exists()]
