"""A chaos run as it stands: its processes, what is known of its store and checkpoints, and what must always hold."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from learner.training.checkpoint import CheckpointStore
from scripts.fault_injection.invalid_rollouts import InvalidRollouts
from scripts.fault_injection.invariants import Invariants
from scripts.fault_injection.lost_work import LostWork
from scripts.fault_injection.processes import InferenceActor, Logs, Training, signal_now, start
from scripts.fault_injection.published import Published
from scripts.fault_injection.test_environment import TOKEN_VARIABLE, TestEnvironment
from shared.errors import CheckpointError, ConfigurationError
from shared.run.run_directory import RunDirectory
from shared.store.used_numbers import UsedNumbers
from shared.transport.addresses import local_address

ACTORS = ("actor-0", "actor-1")
INFERENCE_ACTORS = ("inference-0", "inference-1")

_GONE_WITHIN_S = 10.0
_SILENT_AT_MOST_S = 20.0
_STARTED_WITHIN_S = 90.0
_ORPHANED_AT_MOST_S = 10.0
_PROCESSES_PERIOD_S = 1.0


class RunState:
    """``look`` checks everything that can be seen from outside; the faults tell it what they did."""

    def __init__(
        self,
        environment: TestEnvironment,
        run: RunDirectory,
        invariants: Invariants,
        *,
        flags: list[str],
        training: list[str],
        inference: list[str],
    ) -> None:
        """``flags`` begin the training, ``training`` are what each start needs; ``inference`` go to the inference
        actors.
        """
        self.environment = environment
        self.run = run
        self.invariants = invariants
        self.away = run.path / "policies-away"
        self.between = run.path / "policies-between"
        self.published = Published(
            lambda: [run.policies, self.away, self.between], invariants, UsedNumbers(run.numbers)
        )
        self.logs = Logs(run)
        self.lost_work = LostWork(run, invariants)
        self.invalid_rollouts = InvalidRollouts(run, invariants)
        self.stopped: dict[int, str] = {}
        self.abandoned: list[Path] = []
        self.import_times_s: list[float] = []
        self.longest_silence_s = 0.0
        self.training = Training(environment, run, flags, training)
        self.inference = {name: InferenceActor(name, environment, run, inference) for name in INFERENCE_ACTORS}
        self._checkpoints = CheckpointStore(run.checkpoints)
        self._expected_update: int | None = None
        self._resumes_seen = 0
        self._measured: set[str] = set()
        self._import: tuple[subprocess.Popen[bytes], float] | None = None
        self._processes_at_s = 0.0
        self._adopted: dict[int, float] = {}
        self._zombies: dict[int, float] = {}

    def look(self) -> None:
        """Check what must hold at any time."""
        self.published.look()
        self.logs.look(self.published, self.invariants)
        self._check_resumes()
        self._check_supervisor()
        for actor in self.inference.values():
            actor.look(self.published, self.invariants)
            self._check_pure(actor)
        self._measure_import()
        if time.monotonic() >= self._processes_at_s:
            self._check_processes()
            self._processes_at_s = time.monotonic() + _PROCESSES_PERIOD_S

    def find(self, name: str) -> psutil.Process | None:
        """The process of that name, None where there is none now."""
        if name not in self.inference:
            return self.training.find(name)
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.inference[name].process.pid)
        return None

    def address(self) -> str | None:
        """Where the learner listens."""
        with suppress(ConfigurationError):
            config = self.run.run_config()
            return None if config is None else local_address(config.run_id)
        return None

    def restart(self, actor: InferenceActor, *, measured: bool) -> None:
        """Start a inference actor that was killed; where nothing else disturbs it, how long it takes is
        ``measured``.
        """
        actor.look(self.published, self.invariants)
        self.stopped.pop(actor.process.pid, None)
        actor.close()
        actor.start()
        if measured:
            self._measured.add(actor.name)
        else:
            self._measured.discard(actor.name)

    def checkpoints(self) -> list[Path]:
        """The files of the checkpoints, the newest last."""
        return sorted(self.run.checkpoints.glob("checkpoint-*.pt"))

    def whole_updates(self) -> int:
        """The updates in the newest checkpoint that is whole, -1 where none is."""
        try:
            _, state = self._checkpoints.load_newest()
        except CheckpointError:
            return -1
        return int(state["counters"]["updates"])

    def learner_is_dead(self) -> None:
        """It was killed just now: how much of its work is lost?"""
        self.logs.look(self.published, self.invariants)
        self.lost_work.resumed_unix_s = self.logs.resumed_unix_s
        self.lost_work.killed()

    def expect_resume(self) -> None:
        """The learner is dead: its successor must begin no earlier than the newest whole checkpoint that lies there."""
        self.logs.look(self.published, self.invariants)
        self._resumes_seen = len(self.logs.resumed)
        self._expected_update = self.whole_updates()

    def all_gone(self, processes: list[psutil.Process]) -> None:
        """Wait until what a killed supervisor had started is gone."""
        began_s = time.monotonic()
        while (left := [process for process in processes if _sessions(process)]) and (
            time.monotonic() < began_s + _GONE_WITHIN_S
        ):
            self._reap()
            time.sleep(0.005)
        for process in processes:
            self.stopped.pop(process.pid, None)
        if left:
            self.invariants.broken("nothing outlives the supervisor", f"after {_GONE_WITHIN_S:g} s there is {left}")
        else:
            self.invariants.measured("nothing outlives the supervisor", time.monotonic() - began_s)

    def marked(self) -> list[psutil.Process]:
        """Every process that was started in this run, by whomever, and lives."""
        mark = f"{TOKEN_VARIABLE}={self.environment.path.name}".encode()
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):
                if (
                    mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                    and process.pid != os.getpid()
                ):
                    found.append(process)
        return found

    def _check_resumes(self) -> None:
        for update in self.logs.resumed[self._resumes_seen :]:
            if self._expected_update is not None:
                self.invariants.hold(
                    "resumes from the newest whole checkpoint",
                    update >= self._expected_update,
                    f"resumed at update {update}; the newest whole checkpoint held {self._expected_update}",
                )
            self._expected_update = None
        self._resumes_seen = len(self.logs.resumed)

    def finish_import(self) -> None:
        """Wait for what is measured still, so that nothing of chaos's own is left."""
        if self._import is not None:
            self._import[0].wait()
            self._measure_import()

    def _check_supervisor(self) -> None:
        code = self.training.process.poll()
        if code is None:
            self.invariants.looked("the supervisor goes on")
        else:
            said = self.training.output.read_text(errors="replace").splitlines()[-3:]
            self.invariants.broken("the supervisor goes on", f"it ended with exit code {code}: {' / '.join(said)}")
            self.training.resume()

    def _check_pure(self, actor: InferenceActor) -> None:
        now_s = time.monotonic()
        code = actor.process.poll()
        if code is not None:
            said = actor.output.read_text(errors="replace").splitlines()[-3:]
            self.invariants.broken(
                "inference actors go on acting", f"{actor.name} ended with code {code}: {' / '.join(said)}"
            )
            self.restart(actor, measured=False)
            return
        if actor.process.pid in self.stopped:
            return
        if actor.name in self._measured and actor.first_acts_s is not None:
            self._measured.remove(actor.name)
            if not actor.disturbed:
                self.invariants.measured("a killed actor acts again", actor.first_acts_s - actor.started_s)
                self._import = self._import or self._start_import(actor.imports())
        acts = actor.first_acts_s is not None
        silent_s = now_s - actor.grown_s
        if acts:
            self.longest_silence_s = max(self.longest_silence_s, silent_s)
        if silent_s > (_SILENT_AT_MOST_S if acts else _STARTED_WITHIN_S):
            self.invariants.broken(
                "inference actors go on acting",
                f"{actor.name} ended no episode for {silent_s:.1f} s{'' if acts else ' (start)'}",
            )
            actor.grown_s = now_s
        else:
            self.invariants.looked("inference actors go on acting")

    def _start_import(self, program: str) -> "tuple[subprocess.Popen[bytes], float]":
        began_s = time.monotonic()
        command = [sys.executable, "-P", "-c", program]
        return start(command, self.environment, self.environment.outputs / "imports.txt"), began_s

    def _measure_import(self) -> None:
        if self._import is not None and self._import[0].poll() is not None:
            self.import_times_s.append(time.monotonic() - self._import[1])
            self._import = None

    def _check_processes(self) -> None:
        """Nobody who lost its parent lives on, and nobody leaves its dead children lying about."""
        self._reap()
        now_s = time.monotonic()
        mine = self._own_children()
        adopted, zombies = {}, {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                parent = process.ppid()
                if parent == os.getpid() and process.pid not in mine:
                    adopted[process.pid] = self._adopted.get(process.pid, now_s)
                elif process.status() == psutil.STATUS_ZOMBIE and parent not in self.stopped:
                    zombies[process.pid] = self._zombies.get(process.pid, now_s)
        for what, seen in (("lives without its parent", adopted), ("is a zombie", zombies)):
            for pid, since_s in seen.items():
                if now_s - since_s > _ORPHANED_AT_MOST_S:
                    self.invariants.broken("no orphan, no zombie", f"process {pid} {what}: {command_of(pid)}")
                    seen[pid] = float("inf")
        self._adopted, self._zombies = adopted, zombies
        self.invariants.looked("no orphan, no zombie")

    def _own_children(self) -> set[int]:
        own = {self.training.process.pid, *(actor.process.pid for actor in self.inference.values())}
        return own | ({self._import[0].pid} if self._import is not None else set())

    def _reap(self) -> None:
        """Bury those whose parents are gone, as the system's first process does."""
        mine = self._own_children()
        for process in psutil.Process().children():
            if process.pid not in mine:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def close(self) -> None:
        """End whatever lives, at once."""
        for process in self.marked():
            signal_now(process, signal.SIGKILL)
        for child in (self.training.process, *(actor.process for actor in self.inference.values())):
            child.kill()
            child.wait()
        for actor in self.inference.values():
            actor.close()
        self.logs.close()
        self._reap()


def _sessions(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def command_of(pid: int) -> str:
    """How a process was started, for messages."""
    try:
        return " ".join(psutil.Process(pid).cmdline()) or "?"
    except psutil.NoSuchProcess:
        return "gone now"
