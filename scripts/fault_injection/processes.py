"""Processes of a chaos run: a training with its supervisor, and inference-only actors on its store."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from rl_hotswap.launcher.child_process import child_environment, python_module
from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.published import Published
from scripts.fault_injection.run_logs import Tail
from scripts.fault_injection.test_environment import TestEnvironment
from shared.process.process_guard import die_with
from shared.run.run_directory import RunDirectory

# The imports of every actor before it can act, and those of an actor that has tried TorchScript.
_IMPORTS = (
    "import actor.run, actor.session.acting_session, actor.agent, gymnasium.envs.classic_control.cartpole, "
    "onnxruntime, shared.engines.onnx"
)
_TORCH_IMPORTS = f"{_IMPORTS}, torch, shared.engines.torchscript"

_NAME = re.compile(r"--name=(\S+)|-m (learner)\.run")
_ACTS = b"acts now"


class _Episode(msgspec.Struct):
    version: int
    versions: list[int]
    digest: str


_episode = msgspec.json.Decoder(_Episode)


def start(command: list[str], environment: TestEnvironment, output: Path) -> "subprocess.Popen[bytes]":
    """Start a process in its own session, which ends when this process ends."""
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=environment.path,
            env=child_environment() | environment.variables,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - no other thread holds a lock here
        )


class Training:
    """``rl-hotswap train`` and its child processes."""

    def __init__(self, environment: TestEnvironment, run: RunDirectory, flags: list[str], always: list[str]) -> None:
        """Start with ``flags`` and ``always``; ``--resume`` needs the latter again."""
        self.run = run
        self.starts = 0
        self._environment = environment
        self._always = always
        self.process = self._start([*flags, *always])

    def _start(self, flags: list[str]) -> "subprocess.Popen[bytes]":
        command = python_module("rl_hotswap.cli", ["train", f"--run-dir={self.run.path}", *flags])
        self.starts += 1
        return start(command, self._environment, self.output)

    @property
    def output(self) -> Path:
        return self._environment.outputs / f"train-{self.starts}.txt"

    def resume(self) -> None:
        """Start again from the last checkpoint."""
        self.process = self._start(["--resume", *self._always])

    def find(self, name: str) -> psutil.Process | None:
        """Return the process ``supervisor``, ``learner``, ``actor-0``, …; None if there is none now."""
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            if name == "supervisor":
                return supervisor
            for child in supervisor.children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    found = _NAME.search(" ".join(child.cmdline()))
                    if found is not None and (found[1] or found[2]) == name:
                        return child
        return None

    def descendants(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


class InferenceActor:
    """An inference-only actor, ``python -m actor.run --no-send``, with an episode log for each start.

    ``first_acts_s`` and ``last_episode_s`` are monotonic times. The duration of a ``disturbed`` start is not judged.
    """

    def __init__(self, name: str, environment: TestEnvironment, run: RunDirectory, flags: list[str]) -> None:
        self.name = name
        self.starts = 0
        self.first_acts_s: float | None = None
        self.last_episode_s = 0.0
        self.disturbed = False
        self._environment = environment
        own = f"--env=CartPole-v1 --run-dir={run.path} --envs=4 --no-send --deadline-s=600 --name={name}"
        self._flags = [*own.split(), *flags]
        self.start()

    def start(self) -> None:
        self.starts += 1
        episodes = self._environment.outputs / f"{self.name}-{self.starts}.jsonl"
        self.output = self._environment.outputs / f"{self.name}-{self.starts}.txt"
        self._episodes = Tail(episodes)
        self._output = Tail(self.output)
        self.first_acts_s = None
        self.disturbed = False
        self.started_s = self.last_episode_s = time.monotonic()
        command = python_module("actor.run", [*self._flags, f"--episode-log={episodes}"])
        self.process = start(command, self._environment, self.output)

    def check(self, published: Published, invariants: Invariants) -> None:
        """Check the episodes since the last call."""
        now_s = time.monotonic()
        if self.first_acts_s is None and any(_ACTS in line for line in self._output.lines()):
            self.first_acts_s = self.last_episode_s = now_s
        lines = self._episodes.lines()
        if lines:
            self.last_episode_s = now_s
        for line in lines:
            episode = _episode.decode(line)
            for number in episode.versions:
                problem = published.problem_of(number, episode.digest if number == episode.version else None)
                invariants.check("only published versions act", problem is None, f"{self.name}: {problem}")

    def imports(self) -> str:
        try:
            has_torch = b"libtorch" in Path(f"/proc/{self.process.pid}/maps").read_bytes()
        except OSError:
            has_torch = True
        return _TORCH_IMPORTS if has_torch else _IMPORTS

    def close(self) -> None:
        self._episodes.close()
        self._output.close()


def send_signal(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal; return False if the process is gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def command_of(pid: int) -> str:
    """Return the command line of a process, for messages."""
    try:
        return " ".join(psutil.Process(pid).cmdline()) or "unknown command"
    except psutil.NoSuchProcess:
        return "ended"
