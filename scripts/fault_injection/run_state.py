"""The state of a chaos run: its processes, its store and checkpoints, and the checks that must hold at any time."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from learner.training.checkpoint import CheckpointStore
from scripts.fault_injection.garbage_client import InvalidRollouts
from scripts.fault_injection.invariants import Invariants, LostWork
from scripts.fault_injection.processes import (
    TOKEN_VARIABLE,
    InferenceActor,
    TestEnvironment,
    Training,
    command_of,
    is_alive,
    send_signal,
    start,
)
from scripts.fault_injection.published import Published, RunLogs
from scripts.fault_injection.rare_programs import RarePrograms
from shared.errors import CheckpointError
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import UsedNumbers

ACTORS = ("actor-0", "actor-1")
INFERENCE_ACTORS = ("inference-0", "inference-1")

_GONE_WITHIN_S = 10.0
_SILENT_AT_MOST_S = 20.0
_STARTED_WITHIN_S = 90.0
_ORPHANED_AT_MOST_S = 10.0
_PROCESSES_PERIOD_S = 1.0


@dataclass(frozen=True)
class Flags:
    """Flags of the processes: of the first start of the training, of each of its starts, of inference-only actors."""

    first_start: list[str]
    training: list[str]
    inference: list[str]


class RunState:
    """``check`` checks everything that is visible from outside; faults report here what they did."""

    def __init__(self, environment: TestEnvironment, run: RunDirectory, invariants: Invariants, flags: Flags) -> None:
        self.environment = environment
        self.run = run
        self.invariants = invariants
        self.away = run.path / "policies-away"
        self.between = run.path / "policies-between"
        places = [run.policies, self.away, self.between]
        self.published = Published(lambda: places, invariants, UsedNumbers(run.numbers))
        self.logs = RunLogs(run)
        self.lost_work = LostWork(run, invariants)
        self.invalid_rollouts = InvalidRollouts(run, invariants)
        self.stopped: dict[int, str] = {}
        self.abandoned: list[Path] = []
        self.import_times_s: list[float] = []
        self.longest_silence_s = 0.0
        self.training = Training(environment, run, flags.first_start, flags.training)
        self.inference = {name: InferenceActor(name, environment, run, flags.inference) for name in INFERENCE_ACTORS}
        self.rare_programs = RarePrograms(environment, invariants)
        self._checkpoints = CheckpointStore(run.checkpoints)
        self._expected_update: int | None = None
        self._resumes_checked = 0
        self._measured: set[str] = set()
        self._import: tuple[subprocess.Popen[bytes], float] | None = None
        self._processes_at_s = 0.0
        self._orphans: dict[int, float] = {}
        self._zombies: dict[int, float] = {}

    def check(self) -> None:
        """Check the invariants that must hold at any time."""
        self.published.check()
        self.logs.check(self.published, self.invariants)
        self._check_resumes()
        self._check_supervisor()
        for actor in self.inference.values():
            actor.check(self.published, self.invariants)
            self._check_inference_actor(actor)
        self.rare_programs.check()
        self._measure_import()
        if time.monotonic() >= self._processes_at_s:
            self._check_processes()
            self._processes_at_s = time.monotonic() + _PROCESSES_PERIOD_S

    def find(self, name: str) -> psutil.Process | None:
        """Return the process of that name; None if there is none now."""
        if name not in self.inference:
            return self.training.find(name)
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.inference[name].process.pid)
        return None

    def restart(self, actor: InferenceActor, *, measured: bool) -> None:
        """Restart a killed inference-only actor; ``measured``: measure the time until it acts."""
        actor.check(self.published, self.invariants)
        self.stopped.pop(actor.process.pid, None)
        actor.close()
        actor.start()
        (self._measured.add if measured else self._measured.discard)(actor.name)

    def checkpoints(self) -> list[Path]:
        return sorted(self.run.checkpoints.glob("checkpoint-*.pt"))

    def checkpointed_updates(self) -> int:
        """Return the updates in the newest intact checkpoint, -1 if there is none."""
        try:
            _, state = self._checkpoints.load_newest()
        except CheckpointError:
            return -1
        return int(state["counters"]["updates"])

    def learner_killed(self) -> None:
        """Measure the lost work of a learner that was killed just now."""
        self.logs.check(self.published, self.invariants)
        self.lost_work.resumed_unix_s = self.logs.resumed_unix_s
        self.lost_work.learner_killed()

    def expect_resume(self) -> None:
        """Expect the next learner to resume from the newest intact checkpoint or later."""
        self.logs.check(self.published, self.invariants)
        self._resumes_checked = len(self.logs.resumed)
        self._expected_update = self.checkpointed_updates()

    def wait_until_gone(self, processes: list[psutil.Process]) -> None:
        """Wait until the descendants of a killed supervisor are gone."""
        began_s = time.monotonic()
        while (left := [*filter(is_alive, processes)]) and time.monotonic() < began_s + _GONE_WITHIN_S:
            self._reap()
            time.sleep(0.005)
        for process in processes:
            self.stopped.pop(process.pid, None)
        if left:
            self.invariants.violated("no process outlives the supervisor", f"alive after {_GONE_WITHIN_S:g} s: {left}")
        else:
            self.invariants.measured("no process outlives the supervisor", time.monotonic() - began_s)

    def marked_processes(self) -> list[psutil.Process]:
        """Return every living process of this run, found by its environment variables."""
        mark = f"{TOKEN_VARIABLE}={self.environment.path.name}".encode()
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):
                variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if mark in variables and process.pid != os.getpid():
                    found.append(process)
        return found

    def finish_import(self) -> None:
        """Wait for the last measurement of imports, which is a child process."""
        if self._import is not None:
            self._import[0].wait()
            self._measure_import()

    def close(self) -> None:
        for process in self.marked_processes():
            send_signal(process, signal.SIGKILL)
        for child in (self.training.process, *(actor.process for actor in self.inference.values())):
            child.kill()
            child.wait()
        for actor in self.inference.values():
            actor.close()
        self.rare_programs.close()
        self.logs.close()
        self._reap()

    def _check_resumes(self) -> None:
        for update in self.logs.resumed[self._resumes_checked :]:
            if self._expected_update is not None:
                self.invariants.check(
                    "resumes from the newest intact checkpoint",
                    update >= self._expected_update,
                    f"resumed at update {update}; the newest intact checkpoint has {self._expected_update}",
                )
            self._expected_update = None
        self._resumes_checked = len(self.logs.resumed)

    def _check_supervisor(self) -> None:
        if (code := self.training.process.poll()) is None:
            self.invariants.held("the supervisor keeps running")
        else:
            last = _last_lines(self.training.output)
            self.invariants.violated("the supervisor keeps running", f"it ended with exit code {code}: {last}")
            self.training.resume()

    def _check_inference_actor(self, actor: InferenceActor) -> None:
        now_s = time.monotonic()
        code = actor.process.poll()
        if code is not None:
            message = f"{actor.name} ended with exit code {code}: {_last_lines(actor.output)}"
            self.invariants.violated("inference actors keep acting", message)
            self.restart(actor, measured=False)
            return
        if actor.process.pid in self.stopped:
            return
        if actor.name in self._measured and actor.first_acts_s is not None:
            self._measured.remove(actor.name)
            if not actor.disturbed:
                self.invariants.measured("a killed actor acts again", actor.first_acts_s - actor.started_s)
                if self._import is None:
                    command = [sys.executable, "-P", "-c", actor.imports()]
                    output, began_s = self.environment.outputs / "imports.txt", time.monotonic()
                    self._import = start(command, self.environment, output), began_s
        acts = actor.first_acts_s is not None
        silent_s = now_s - actor.last_episode_s
        if acts:
            self.longest_silence_s = max(self.longest_silence_s, silent_s)
        if silent_s > (_SILENT_AT_MOST_S if acts else _STARTED_WITHIN_S):
            message = f"{actor.name} finished no episode for {silent_s:.1f} s{'' if acts else ' after its start'}"
            self.invariants.violated("inference actors keep acting", message)
            actor.last_episode_s = now_s
        else:
            self.invariants.held("inference actors keep acting")

    def _measure_import(self) -> None:
        if self._import is not None and self._import[0].poll() is not None:
            self.import_times_s.append(time.monotonic() - self._import[1])
            self._import = None

    def _check_processes(self) -> None:
        self._reap()
        now_s = time.monotonic()
        own = self._own_children()
        orphans, zombies = {}, {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                parent = process.ppid()
                if parent == os.getpid() and process.pid not in own:
                    orphans[process.pid] = self._orphans.get(process.pid, now_s)
                elif process.status() == psutil.STATUS_ZOMBIE and parent not in self.stopped:
                    zombies[process.pid] = self._zombies.get(process.pid, now_s)
        for what, seen in (("an orphan", orphans), ("a zombie", zombies)):
            for pid, since_s in seen.items():
                if now_s - since_s > _ORPHANED_AT_MOST_S:
                    self.invariants.violated("no orphans, no zombies", f"process {pid} is {what}: {command_of(pid)}")
                    seen[pid] = float("inf")
        self._orphans, self._zombies = orphans, zombies
        self.invariants.held("no orphans, no zombies")

    def _own_children(self) -> set[int]:
        own = {
            self.training.process.pid,
            self.rare_programs.pid,
            *(actor.process.pid for actor in self.inference.values()),
        }
        return own | ({self._import[0].pid} if self._import is not None else set())

    def _reap(self) -> None:
        own = self._own_children()
        for process in psutil.Process().children():
            if process.pid not in own:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)


def _last_lines(output: Path) -> str:
    return " / ".join(output.read_text(errors="replace").splitlines()[-3:])
