"""``python scripts/chaos.py``: does everything bad to a real training at random, and checks what holds."""

import sys
from pathlib import Path

if __name__ == "__main__":  # started as a file, so the path begins with scripts/: it has to begin with the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np
from rich.console import Console

from scripts.faults.cast import tracebacks
from scripts.faults.deeds import Deeds
from scripts.faults.scene import ACTORS, Scene
from scripts.faults.verdict import Verdict
from scripts.faults.workplace import Workplace, adopt_orphans
from scripts.keys import PUBLIC_KEY_FILE, SIGNING_KEY_FILE, make_keys
from shared.command_line import INTERRUPTED, run_command
from shared.errors import ConfigurationError, HotswapError
from shared.log import set_up_logging
from shared.run_directory import RunDirectory

COMMAND = "python scripts/chaos.py"

_DISK_BYTES = 192 * 2**20
_TICK_S = 0.02
_BEGUN_WITHIN_S = 180.0
_WELL_WITHIN_S = 120.0
_STOPPED_WITHIN_S = 3.0
_LOAD_ALLOWANCE_S = 5.0
_ACTS_AGAIN_WITHIN_S = 1.0
_TRAINING_FLAGS = [
    "--env=CartPole-v1",
    "--actors=2",
    "--envs-per-actor=4",
    "--batch-steps=512",
    "--epochs=2",
    "--hidden-sizes=16",
    "--target-return=inf",
    "--publish-every-updates=1000000",
    "--publish-every-s=0.2",
    "--checkpoint-every-updates=1000000",
    "--checkpoint-every-s=1.0",
    "--keep-versions=200",
]


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """Do everything bad to a real training at random, and check that nothing bad acts and nothing is lost.

    A training (supervisor, learner, two actors) and two actors that only act are killed, stopped and started again; the
    store gets spoilt versions and abandoned writes, is moved away and made read-only; checkpoints are broken, the disk
    is filled, the learner's socket flooded. Odd seeds sign their versions, even ones do not. What needs mounts (a disk
    of its own, a read-only store) needs root, and is left out otherwise.

    Exit code 0: every promise was kept. 1: one was not; the line VIOLATION says what and when.
    """

    minutes: float = 1.0
    """How long to go on."""
    seed: int = 1
    """What is done, and when."""
    json: Path | None = None
    """Write what was done and what held to this file."""
    logs: Path | None = None
    """Copy the logs of all processes into this directory, to see how a promise came to be broken."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ConfigurationError(f"--minutes is above 0; found {self.minutes}")
        if self.seed < 0:
            raise ConfigurationError(f"--seed is 0 or more; found {self.seed}")


def main(options: ChaosOptions) -> int:
    """Run it, show the tables. Raises ConfigurationError where the training cannot even be begun."""
    set_up_logging("chaos", None, terminal_level=None)
    adopt_orphans()
    verdict = Verdict()
    workplace = Workplace(_DISK_BYTES)
    try:
        if not workplace.mounts:
            verdict.say("nothing can be mounted here: no full disk, no read-only store")
        interrupted = _run(options, workplace, verdict)
    finally:
        if options.logs is not None:
            for directory in (workplace.outputs, workplace.disk / "run" / "logs"):
                shutil.copytree(directory, options.logs, dirs_exist_ok=True)
        workplace.close()
    verdict.show(Console())
    if options.json is not None:
        verdict.write(options.json, seed=options.seed)
    return INTERRUPTED if interrupted else 0 if verdict.is_good else 1


def _run(options: ChaosOptions, workplace: Workplace, verdict: Verdict) -> bool:
    signs = options.seed % 2 == 1
    keys = workplace.path / "keys"
    if signs:
        make_keys(keys)
    run = RunDirectory(workplace.disk / "run")
    generator = np.random.default_rng(options.seed)
    verdict.say(f"seed {options.seed}, {'signed' if signs else 'not signed'}, in {workplace.path}")
    scene = Scene(
        workplace,
        run,
        verdict,
        flags=[*_TRAINING_FLAGS, f"--seed={options.seed}"],
        training=[f"--signing-key={keys / SIGNING_KEY_FILE}"] if signs else [],
        pure=[f"--public-key={keys / PUBLIC_KEY_FILE}"] if signs else [],
    )
    deeds = Deeds(scene, generator)
    interrupted = False
    try:
        _wait(scene, _BEGUN_WITHIN_S, lambda: bool(scene.checkpoints()) and _all_act(scene))
        verdict.say("everything acts; chaos begins")
        try:
            _be_bad(scene, deeds, generator, options.minutes * 60)
        except KeyboardInterrupt:
            interrupted = True
        deeds.undo(all_of_them=True)
        _wait(scene, _WELL_WITHIN_S, lambda: _all_act(scene) and _trains(scene, time.time() - 1.0))
        _end(scene)
    finally:
        deeds.undo(all_of_them=True)
        scene.close()
    return interrupted


def _be_bad(scene: Scene, deeds: Deeds, generator: np.random.Generator, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    next_s = time.monotonic()
    while time.monotonic() < until_s:
        if time.monotonic() >= next_s:
            deeds.do_one()
            next_s = time.monotonic() + float(generator.uniform(0.5, 2.0))
        deeds.undo()
        scene.look()
        time.sleep(_TICK_S)


def _wait(scene: Scene, patience_s: float, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline_s:
            scene.verdict.broken("the supervisor goes on", f"not all of them were well again within {patience_s:g} s")
            return
        scene.look()
        time.sleep(_TICK_S)


def _all_act(scene: Scene) -> bool:
    return all(actor.first_acts_s is not None for actor in scene.pure.values()) and all(
        scene.find(name) is not None for name in ("learner", *ACTORS)
    )


def _trains(scene: Scene, since_unix_s: float) -> bool:
    with suppress(HotswapError):
        progress = scene.run.progress()
        return progress is not None and progress.phase == "training" and progress.updated_unix_s > since_unix_s
    return False


def _end(scene: Scene) -> None:
    """Ctrl-C to all of it; then nothing may be left, and the books must balance."""
    verdict = scene.verdict
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
    verdict.notes["versions"] = f"{len(scene.published.digests)} published, {len(scene.published.spoilt)} spoilt"
    verdict.notes["longest silence of a pure actor"] = f"{scene.longest_silence_s:.1f} s"


def _check_accounts(scene: Scene) -> None:
    summary = scene.run.summary()
    if summary is None:
        scene.verdict.broken("accounts exact", "there is no summary: the learner could not end by itself")
        return
    books = summary.rollouts
    scene.verdict.notes["rollouts"] = str(books)
    placed = books.learned + books.stale + books.invalid + books.lost
    scene.verdict.hold("accounts exact", books.sent == placed, f"{books.sent} sent, {placed} accounted for: {books}")
    scene.verdict.hold("no bad action", books.invalid == 0, f"{books.invalid} rollouts were invalid")


def _check_restarts(scene: Scene) -> None:
    again, imports = scene.verdict.seconds("a killed actor acts again"), scene.import_times_s
    if not again or not imports:
        return
    scene.verdict.notes["restarts of pure actors"] = (
        f"{len(again)}: median {median(again):.2f} s, max {max(again):.2f} s; imports alone "
        f"({len(imports)}): median {median(imports):.2f} s, max {max(imports):.2f} s"
    )
    # Two interpreters import: the actor's, and that of the process which tries a program first. Cores are taken.
    beside_s = median(again) - 2 * median(imports)
    scene.verdict.hold(
        "a killed actor acts again",
        beside_s <= _ACTS_AGAIN_WITHIN_S,
        f"it takes {beside_s:.2f} s beside the imports of both its interpreters, at the median",
    )


def _check_leaks(scene: Scene) -> None:
    verdict = scene.verdict
    left = [f"{process.pid} {process.name()}" for process in scene.marked()]
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


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, ChaosOptions, main))
