"""Invariants of a chaos run: a line for each event, the checks of each, and the work that is lost with a learner."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from learner.training.checkpoint import CheckpointStore
from shared.errors import HotswapError
from shared.run.run_directory import RunDirectory

Invariant = Literal[
    "only published versions act",
    "no version number is used twice",
    "rollout accounts balance",
    "invalid rollouts are rejected",
    "inference actors keep acting",
    "a killed actor acts again",
    "a program that fails for rare inputs is quarantined",
    "resumes from the newest intact checkpoint",
    "at most one checkpoint interval is lost",
    "no process outlives the supervisor",
    "no orphans, no zombies",
    "the supervisor keeps running",
    "Ctrl-C ends all processes in time",
    "no leaked resources",
    "no tracebacks in logs",
]


@dataclass
class _Checks:
    checked: int = 0
    measured_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Invariants:
    """Counts faults and checks; prints faults and violations as they happen."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.faults: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self._checks: dict[Invariant, _Checks] = {invariant: _Checks() for invariant in get_args(Invariant)}

    @property
    def is_good(self) -> bool:
        return not any(checks.violations for checks in self._checks.values())

    def count_fault(self, fault: str, detail: str = "") -> None:
        self.faults[fault] += 1
        self.print(f"{fault} {detail}".rstrip())

    def print(self, line: str) -> None:
        """Print ``line`` after the time since the start."""
        print(f"{time.monotonic() - self.began_s:7.2f} s  {line}", flush=True)

    def held(self, invariant: Invariant) -> None:
        """Count a successful check."""
        self._checks[invariant].checked += 1

    def measured(self, invariant: Invariant, seconds: float) -> None:
        """Count a successful check and note how long it took."""
        self.held(invariant)
        self._checks[invariant].measured_s.append(seconds)

    def seconds(self, invariant: Invariant) -> list[float]:
        return self._checks[invariant].measured_s

    def violated(self, invariant: Invariant, what: str) -> None:
        """Note and print a violation."""
        self._checks[invariant].violations.append(f"{time.monotonic() - self.began_s:.2f} s: {what}")
        self.print(f"VIOLATION ({invariant}): {what}")

    def check(self, invariant: Invariant, holds: bool, otherwise: str) -> None:
        """Count a check that ``holds``, or note the violation ``otherwise``."""
        if holds:
            self.held(invariant)
        else:
            self.violated(invariant, otherwise)

    def show(self, console: Console) -> None:
        """Print the tables of faults and invariants, the notes, and the violations."""
        faults = Table("fault", "count", title=f"{sum(self.faults.values())} faults")
        for fault, times in sorted(self.faults.items()):
            faults.add_row(fault, str(times))
        console.print(faults)
        table = Table("invariant", "checks", "status", "median, max (s)", title="invariants")
        for invariant, checks in self._checks.items():
            seconds = f"{median(checks.measured_s):.2f}, {max(checks.measured_s):.2f}" if checks.measured_s else ""
            status = "holds" if checks.checked else "not checked"
            if checks.violations:
                status = f"[red]{len(checks.violations)} violations"
            table.add_row(invariant, str(checks.checked), status, seconds)
        console.print(table)
        for name, note in self.notes.items():
            console.print(f"{name}: {note}", soft_wrap=True, highlight=False)
        for invariant, checks in self._checks.items():
            for what in checks.violations:
                console.print(f"VIOLATION ({invariant}) at {what}", soft_wrap=True, highlight=False, markup=False)

    def write(self, path: Path, *, seed: int) -> None:
        content = {
            "seed": seed,
            "good": self.is_good,
            "took_s": time.monotonic() - self.began_s,
            "faults": dict(self.faults),
            "notes": self.notes,
            "invariants": {invariant: vars(checks) for invariant, checks in self._checks.items()},
        }
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))


CHECKPOINT_EVERY_S = 1.0
"""Checkpoint interval of the training in a chaos run."""

_BUSY_ALLOWANCE_S = 2.0


class LostWork:
    """Measures the lost work after each kill of a learner.

    A learner that other faults disturb may write its checkpoints late: its lost work is noted but not judged. Progress
    is written four times a second, so measurements may be too low by that much.
    """

    def __init__(self, run: RunDirectory, invariants: Invariants) -> None:
        self.resumed_unix_s = 0.0
        self._run = run
        self._invariants = invariants
        self._checkpoints = CheckpointStore(run.checkpoints)
        self._disturbances = 0
        self._undisturbed_since_unix_s = 0.0
        self._all_s: list[float] = []

    def begin_disturbance(self) -> None:
        """Note that a fault begins: a stopped process or failing storage."""
        self._disturbances += 1

    def end_disturbance(self) -> None:
        self._disturbances -= 1
        self._undisturbed_since_unix_s = time.time()

    def checkpoint_broken(self) -> None:
        """Note that a checkpoint was broken, whose work is not the learner's loss."""
        self._undisturbed_since_unix_s = time.time()

    def learner_killed(self) -> None:
        """Measure the lost work; call it right after the kill."""
        try:
            progress = self._run.progress()
            step, _ = self._checkpoints.load_newest()
            written_unix_s = (self._run.checkpoints / f"checkpoint-{step:09d}.pt").stat().st_mtime
        except (HotswapError, OSError):
            return
        if progress is None:
            return
        since_unix_s = max(written_unix_s, self.resumed_unix_s)
        lost_s = max(progress.updated_unix_s - since_unix_s, 0.0)
        self._all_s.append(lost_s)
        if self._disturbances or since_unix_s <= self._undisturbed_since_unix_s:
            return
        in_time: Invariant = "at most one checkpoint interval is lost"
        if lost_s <= CHECKPOINT_EVERY_S + _BUSY_ALLOWANCE_S:
            self._invariants.measured(in_time, lost_s)
        else:
            self._invariants.violated(in_time, f"{lost_s:.2f} s of work were lost")

    def add_note(self) -> None:
        """Note the lost work of all killed learners."""
        if self._all_s:
            self._invariants.notes["work lost with a learner"] = (
                f"{len(self._all_s)} times: median {median(self._all_s):.2f} s, max {max(self._all_s):.2f} s "
                "(including disturbed learners)"
            )
