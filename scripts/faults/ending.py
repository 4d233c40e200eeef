"""The end of a chaos run: all of it is stopped as a person does it, and what is left is looked at."""

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from scripts.faults.cast import tracebacks
from scripts.faults.scene import Scene, command_of
from shared.command_line import INTERRUPTED
from shared.errors import HotswapError

_STOPPED_WITHIN_S = 3.0
_LOAD_ALLOWANCE_S = 12.0
_WELL_WITHIN_S = 120.0
_LOOK_AGAIN_S = 0.05
_ENDINGS = 3
_ACTS_AGAIN_WITHIN_S = 1.0
_RESTARTS_TO_JUDGE_BY = 5


def trains(scene: Scene, since_unix_s: float) -> bool:
    """Whether the learner has made an update since then."""
    with suppress(HotswapError):
        progress = scene.run.progress()
        return progress is not None and progress.phase == "training" and progress.updated_unix_s > since_unix_s
    return False


def end(scene: Scene) -> None:
    """Invalid rollouts, then Ctrl-C to all of it; then nothing may be left, and the books must balance."""
    verdict = scene.verdict
    scene.invalid_rollouts.must_be_rejected()
    began_s = time.monotonic()
    for process in (scene.training.process, *(actor.process for actor in scene.pure.values())):
        process.send_signal(signal.SIGINT)
    for name, process in (
        ("train.py", scene.training.process),
        *((actor.name, actor.process) for actor in scene.pure.values()),
    ):
        try:
            code = process.wait(began_s + _STOPPED_WITHIN_S + _LOAD_ALLOWANCE_S - time.monotonic())
        except subprocess.TimeoutExpired:
            verdict.broken("Ctrl-C ends all in time", f"{name} goes on after {time.monotonic() - began_s:.1f} s")
            continue
        verdict.measured("Ctrl-C ends all in time", time.monotonic() - began_s)
        verdict.hold("Ctrl-C ends all in time", code == INTERRUPTED, f"{name} ended with exit code {code}")
    scene.logs.look(scene.published, verdict)
    for actor in scene.pure.values():
        actor.look(scene.published, verdict)
    _check_accounts(scene)
    _check_restarts(scene)
    _check_leaks(scene)
    found = tracebacks([scene.run.logs, scene.workplace.outputs])
    verdict.hold("logs free of tracebacks", not found, f"{len(found)} there: {', '.join(found[:10])}")
    kills = sum(times for deed, times in verdict.deeds.items() if deed.startswith("kill"))
    verdict.notes["kills"] = str(kills)
    scene.lost_work.note()
    verdict.notes["versions"] = f"{len(scene.published.digests)} published, {len(scene.published.spoilt)} spoilt"
    verdict.notes["longest silence of a pure actor"] = f"{scene.longest_silence_s:.1f} s"


def _check_accounts(scene: Scene) -> None:
    summary = scene.run.summary()
    for _ in range(_ENDINGS - 1):
        if summary is not None:
            break
        scene.verdict.say("no summary: the learner did not end in time, and was killed; train.py --resume")
        _end_again(scene)
        summary = scene.run.summary()
    if summary is None:
        scene.verdict.broken("accounts exact", f"there is no summary: the learner ended late {_ENDINGS} times")
        return
    books = summary.rollouts
    scene.verdict.notes["rollouts"] = str(books)
    placed = books.learned + books.stale + books.invalid + books.lost
    scene.verdict.hold("accounts exact", books.sent == placed, f"{books.sent} sent, {placed} accounted for: {books}")
    scene.invalid_rollouts.may_be_invalid(books.invalid)


def _end_again(scene: Scene) -> None:
    """Resume the training, and end it once it trains."""
    began_unix_s = time.time()
    scene.training.resume()
    deadline_s = time.monotonic() + _WELL_WITHIN_S
    while not trains(scene, began_unix_s) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_AGAIN_S)
    scene.training.process.send_signal(signal.SIGINT)
    scene.training.process.wait()


def _check_restarts(scene: Scene) -> None:
    again, imports = scene.verdict.seconds("a killed actor acts again"), scene.import_times_s
    if not again or not imports:
        return
    scene.verdict.notes["restarts of pure actors"] = (
        f"{len(again)}: median {median(again):.2f} s, max {max(again):.2f} s; imports alone "
        f"({len(imports)}): median {median(imports):.2f} s, max {max(imports):.2f} s"
    )
    beside_s = median(again) - median(imports)
    scene.verdict.hold(
        "a killed actor acts again",
        beside_s <= _ACTS_AGAIN_WITHIN_S or min(len(again), len(imports)) < _RESTARTS_TO_JUDGE_BY,
        f"it takes {beside_s:.2f} s beside the imports of its interpreter, at the median",
    )


def _check_leaks(scene: Scene) -> None:
    verdict = scene.verdict
    scene.finish_import()
    left = [f"{process.pid} ({command_of(process.pid)})" for process in scene.marked()]
    verdict.hold("no orphan, no zombie", not left, f"these live on: {', '.join(left)}")
    address = scene.address() or ""
    sockets = Path("/proc/net/unix").read_text().splitlines()
    open_still = [line for line in sockets if line.endswith(address.removeprefix("ipc://")) and address]
    verdict.hold("nothing leaked", not open_still, f"the socket {address} is still there")
    leaked = scene.workplace.leaked()
    verdict.hold("nothing leaked", not leaked, f"{len(leaked)} are left: {', '.join(leaked[:5])}")
    hidden = [str(path.relative_to(scene.run.path)) for path in _hidden_files(scene)]
    verdict.hold("nothing leaked", not hidden, f"half-written files are left: {', '.join(hidden[:5])}")


def _hidden_files(scene: Scene) -> list[Path]:
    """What a process that was killed was writing, and nobody took away."""
    run = scene.run
    found = [*run.path.glob(".*"), *run.checkpoints.glob(".*")]
    return found + [path for path in scene.abandoned if path.exists()]
