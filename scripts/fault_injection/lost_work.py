"""Work that is lost when a learner is killed: the time since the checkpoint from which its successor resumes."""

import time
from contextlib import suppress
from statistics import median

from learner.training.checkpoint import CheckpointStore
from scripts.fault_injection.invariants import Invariants
from shared.errors import CheckpointError, HotswapError
from shared.run.run_directory import RunDirectory

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
        updated_unix_s, since_unix_s = self._last_update(), self._resume_point()
        if updated_unix_s is None or since_unix_s is None:
            return
        lost_s = max(updated_unix_s - since_unix_s, 0.0)
        self._all_s.append(lost_s)
        if self._disturbances or since_unix_s <= self._undisturbed_since_unix_s:
            return
        if lost_s <= CHECKPOINT_EVERY_S + _BUSY_ALLOWANCE_S:
            self._invariants.measured("at most one checkpoint interval is lost", lost_s)
        else:
            self._invariants.violated("at most one checkpoint interval is lost", f"{lost_s:.2f} s of work were lost")

    def add_note(self) -> None:
        """Note the lost work of all killed learners."""
        if self._all_s:
            self._invariants.notes["work lost with a learner"] = (
                f"{len(self._all_s)} times: median {median(self._all_s):.2f} s, max {max(self._all_s):.2f} s "
                "(including disturbed learners)"
            )

    def _last_update(self) -> float | None:
        with suppress(HotswapError):
            progress = self._run.progress()
            return None if progress is None else progress.updated_unix_s
        return None

    def _resume_point(self) -> float | None:
        """Return the time of the newest intact checkpoint, or of the last resume if that was later."""
        try:
            step, _ = self._checkpoints.load_newest()
            written_unix_s = (self._run.checkpoints / f"checkpoint-{step:09d}.pt").stat().st_mtime
        except (CheckpointError, OSError):
            return None
        return max(written_unix_s, self.resumed_unix_s)
