"""Processes of a chaos run: a training with its supervisor, and inference-only actors; and their test environment.

The environment is a temporary directory, a small disk, and a private mount namespace.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from actor.guard.record_place import record_place
from rl_hotswap.launcher.child_process import child_environment, python_module
from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.published import Published, Tail
from shared.process.process_guard import die_with
from shared.run.run_directory import RunDirectory

_CLONE_NEWNS = 0x00020000
_PR_SET_CHILD_SUBREAPER = 36
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_BYTES = 2**28

TOKEN_VARIABLE = "RL_HOTSWAP_CHAOS"


class TestEnvironment:
    """Directories of a chaos run: ``disk`` for the run, ``temporary`` (TMPDIR), and ``outputs`` of all processes."""

    def __init__(self, disk_bytes: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rl-hotswap-chaos-"))
        self.disk = self.path / "disk"
        self.temporary = self.path / "temporary"
        self.outputs = self.path / "outputs"
        for directory in (self.disk, self.temporary, self.outputs):
            directory.mkdir()
        self.mounts = _own_mounts() and _mount_memory(self.disk, disk_bytes)
        self.own_shared_memory = self.mounts and _mount_memory(_SHARED_MEMORY, _SHARED_MEMORY_BYTES)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of all processes: a mark, the temporary directory and the cache directory."""
        cache = str(self.path / "cache")
        return {TOKEN_VARIABLE: self.path.name, "TMPDIR": str(self.temporary), "XDG_CACHE_HOME": cache}

    def leaked(self) -> list[str]:
        """Return shared memory and temporary files that are left, without the records of acting processes."""
        left = [str(path) for path in self.temporary.glob("rl-hotswap-*")]  # libraries keep caches there
        if self.own_shared_memory:
            records = record_place(self.path).directory  # the next actor takes those of killed ones
            left += [str(path) for path in _SHARED_MEMORY.iterdir() if path != records]
        return left

    def close(self) -> None:
        if self.own_shared_memory:
            unmount(_SHARED_MEMORY)
        if self.mounts:
            unmount(self.disk)
        shutil.rmtree(self.path, ignore_errors=True)


def _succeeds(*command: object) -> bool:
    return subprocess.run([*map(str, command)], capture_output=True, check=False).returncode == 0


def _mount_memory(path: Path, size_bytes: int) -> bool:
    return _succeeds("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", path)


def unmount(path: Path) -> bool:
    """Detach a mount now, even while files on it are open."""
    return _succeeds("umount", "--lazy", path)


def bind_read_only(path: Path) -> bool:
    """Make ``path`` read-only until it is unmounted; return True if that succeeded."""
    if not _succeeds("mount", "--bind", path, path):
        return False
    if not (is_read_only := _succeeds("mount", "-o", "remount,bind,ro", path)):
        unmount(path)
    return is_read_only


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent has ended, so that orphans are found."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _own_mounts() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    unshared = ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) == 0
    return unshared and _succeeds("mount", "--make-rprivate", "/")


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
        command = python_module("rl_hotswap.cli.main", ["train", f"--run-dir={self.run.path}", *flags])
        self.starts += 1
        self.output = self._environment.outputs / f"train-{self.starts}.txt"
        return start(command, self._environment, self.output)

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
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
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
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        return True
    return False


def is_alive(process: psutil.Process) -> bool:
    """Return True when the process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def command_of(pid: int) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(psutil.Process(pid).cmdline()) or "unknown command"
    return "ended"
