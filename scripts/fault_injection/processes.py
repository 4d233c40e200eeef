"""The processes of a chaos run: a training with its supervisor, and actors that only act from its store."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from rl_hotswap.launcher.child_process import CHECKOUT, child_environment, python_module
from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.published import Published
from scripts.fault_injection.tail import Tail
from scripts.fault_injection.test_environment import TestEnvironment
from shared.process.process_guard import die_with
from shared.run.run_directory import RunDirectory

# What every actor imports before it can act, and what one does that has tried TorchScript, too.
_IMPORTS = (
    "import actor.run, actor.session.acting_session, actor.agent, gymnasium.envs.classic_control.cartpole, "
    "onnxruntime, "
    "shared.engines.onnx"
)
_TORCH_IMPORTS = f"{_IMPORTS}, torch, shared.engines.torchscript"

_NAME = re.compile(r"--name=(\S+)|-m (learner)\.run")
_ACTED = re.compile(r"policy version (\d+) adopted .* digest=([0-9a-f]{12})")
_RESUMED = re.compile(r"resumed at update (\d+) after")


class _Episode(msgspec.Struct):
    version: int
    versions: list[int]
    digest: str


_episode = msgspec.json.Decoder(_Episode)


def start(command: list[str], environment: TestEnvironment, output: Path) -> "subprocess.Popen[bytes]":
    """A process in a session of its own, which ends with this one however that ends."""
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=environment.path,
            env=child_environment() | environment.environment,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - no thread here holds what the child needs
        )


class Training:
    """``scripts/train.py`` and what it starts."""

    def __init__(self, environment: TestEnvironment, run: RunDirectory, flags: list[str], always: list[str]) -> None:
        """``flags`` are those of the first start; ``always`` those that --resume needs again."""
        self.run = run
        self.starts = 0
        self._environment = environment
        self._flags = flags
        self._always = always
        self.process = self._start([*flags, *always])

    def _start(self, flags: list[str]) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(CHECKOUT / "scripts" / "train.py"), f"--run-dir={self.run.path}", *flags]
        self.starts += 1
        self.started_s = time.monotonic()
        return start(command, self._environment, self.output)

    @property
    def output(self) -> Path:
        """What it prints."""
        return self._environment.outputs / f"train-{self.starts}.txt"

    def resume(self) -> None:
        """Start it again, from the last checkpoint."""
        self.process = self._start(["--resume", *self._always])

    def find(self, name: str) -> psutil.Process | None:
        """The process of that name: supervisor, learner, actor-0, …; None where there is none now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            if name == "supervisor":
                return supervisor
            for child in supervisor.children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    found = _NAME.search(" ".join(child.cmdline()))
                    if found is not None and (found[1] or found[2]) == name:
                        return child
        return None

    def descendants(self) -> list[psutil.Process]:
        """All that live because of it."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
        return found


class InferenceActor:
    """``python -m actor.run --no-send``, started again whenever it is gone, each time with its own episode log."""

    def __init__(self, name: str, environment: TestEnvironment, run: RunDirectory, flags: list[str]) -> None:
        self.name = name
        self.starts = 0
        self.first_acts_s: float | None = None
        self.grown_s = 0.0
        self.disturbed = False
        self._environment = environment
        self._flags = [
            "--env=CartPole-v1",
            f"--run-dir={run.path}",
            "--envs=4",
            "--no-send",
            "--deadline-s=600",
            f"--name={name}",
            *flags,
        ]
        self.start()

    def start(self) -> None:
        """A new process, whose lines are read from its beginning."""
        self.starts += 1
        episodes = self._environment.outputs / f"{self.name}-{self.starts}.jsonl"
        self.output = self._environment.outputs / f"{self.name}-{self.starts}.txt"
        self._episodes = Tail(episodes)
        self._said = Tail(self.output)
        self.first_acts_s = None
        self.disturbed = False
        self.started_s = self.grown_s = time.monotonic()
        command = python_module("actor.run", [*self._flags, f"--episode-log={episodes}"])
        self.process = start(command, self._environment, self.output)

    def look(self, published: Published, invariants: Invariants) -> None:
        """Check what it has acted since the last look."""
        now_s = time.monotonic()
        if self.first_acts_s is None and any(b"acts now" in line for line in self._said.lines()):
            self.first_acts_s = self.grown_s = now_s
        lines = self._episodes.lines()
        if lines:
            self.grown_s = now_s
        for line in lines:
            episode = _episode.decode(line)
            for number in episode.versions:
                digest = episode.digest if number == episode.version else None
                fault = published.who_acted(number, digest)
                if fault is None:
                    invariants.looked("no bad action")
                else:
                    invariants.broken("no bad action", f"{self.name} {fault}")

    def imports(self) -> str:
        """What it has imported, as a program."""
        try:
            has_torch = b"libtorch" in Path(f"/proc/{self.process.pid}/maps").read_bytes()
        except OSError:
            has_torch = True
        return _TORCH_IMPORTS if has_torch else _IMPORTS

    def close(self) -> None:
        self._episodes.close()
        self._said.close()


class Logs:
    """The log files of a run, for what they say of versions that act, of resuming, and of tracebacks."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._tails: dict[str, Tail] = {}
        self.resumed: list[int] = []
        self.resumed_unix_s = 0.0

    def look(self, published: Published, invariants: Invariants) -> None:
        """Check what was logged since the last look; ``resumed`` gets the updates at which learners resumed.

        ``resumed_unix_s`` is when the last one did.
        """
        with contextlib.suppress(FileNotFoundError):
            for path in self._run.logs.glob("*.log"):
                if path.name.count(".") == 1:  # not one that was rotated away
                    self._tails.setdefault(path.name, Tail(path))
        for name, tail in self._tails.items():
            for line in tail.lines():
                self._check(name, line.decode(errors="replace"), published, invariants)

    def _check(self, name: str, line: str, published: Published, invariants: Invariants) -> None:
        if (acted := _ACTED.search(line)) is not None:
            fault = published.who_acted(int(acted[1]), acted[2])
            invariants.hold("no bad action", fault is None, f"{name}: {fault}")
        elif name == "learner.log" and (resumed := _RESUMED.search(line)) is not None:
            self.resumed.append(int(resumed[1]))
            self.resumed_unix_s = datetime.fromisoformat(line.split(" | ", 1)[0]).timestamp()

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()


def tracebacks(directories: list[Path]) -> list[str]:
    """Every place in a log or an output that shows an error which nobody took care of."""
    found = []
    for directory in directories:
        for path in sorted((*directory.glob("*.log"), *directory.glob("*.txt"))):
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if "Traceback (most recent call last)" in line:
                    found.append(f"{path.name}:{number}")
    return found


def signal_now(process: psutil.Process, number: signal.Signals) -> bool:
    """False where it is gone already."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
