"""How much work is lost with a learner that is killed: what it did since what its successor goes on from."""

import time
from contextlib import suppress
from statistics import median

from learner.training.checkpoint import CheckpointStore
from scripts.fault_injection.invariants import Invariants
from shared.errors import CheckpointError, HotswapError
from shared.run.run_directory import RunDirectory

CHECKPOINT_EVERY_S = 1.0
"""How often the training of a chaos run writes a checkpoint."""

_BUSY_ALLOWANCE_S = 2.0


class LostWork:
    """Whoever kills a learner says ``killed``; who keeps one from its work tells when that ``begins`` and ``ends``.

    A disturbed learner may write its checkpoints late: what it loses is noted, and held to nothing. Progress is
    written four times a second, so what is measured may be that much too little.
    """

    def __init__(self, run: RunDirectory, invariants: Invariants) -> None:
        self.resumed_unix_s = 0.0
        self._run = run
        self._invariants = invariants
        self._checkpoints = CheckpointStore(run.checkpoints)
        self._disturbances = 0
        self._calm_since_unix_s = 0.0
        self._all_s: list[float] = []

    def begins(self) -> None:
        """From now on somebody is stopped, or the storage is ill."""
        self._disturbances += 1

    def ends(self) -> None:
        """That is over."""
        self._disturbances -= 1
        self._calm_since_unix_s = time.time()

    def spoiled(self) -> None:
        """A checkpoint was taken away: that work is lost by no fault of the learner."""
        self._calm_since_unix_s = time.time()

    def killed(self) -> None:
        """The learner is dead just now, and nothing that it wrote was touched."""
        updated_unix_s, since_unix_s = self._last_update(), self._goes_on_from()
        if updated_unix_s is None or since_unix_s is None:
            return
        lost_s = max(updated_unix_s - since_unix_s, 0.0)
        self._all_s.append(lost_s)
        if self._disturbances or since_unix_s <= self._calm_since_unix_s:
            return
        if lost_s <= CHECKPOINT_EVERY_S + _BUSY_ALLOWANCE_S:
            self._invariants.measured("at most one checkpoint interval is lost", lost_s)
        else:
            self._invariants.broken("at most one checkpoint interval is lost", f"{lost_s:.2f} s of work were lost")

    def note(self) -> None:
        """Say what was lost by all of them, disturbed or not."""
        if self._all_s:
            self._invariants.notes["work lost with a learner"] = (
                f"{len(self._all_s)} times: median {median(self._all_s):.2f} s, max {max(self._all_s):.2f} s "
                "(those that were stopped, or had no disk, included)"
            )

    def _last_update(self) -> float | None:
        with suppress(HotswapError):
            progress = self._run.progress()
            return None if progress is None else progress.updated_unix_s
        return None

    def _goes_on_from(self) -> float | None:
        """When the newest whole checkpoint was written, or the learner resumed, if that was later."""
        try:
            step, _ = self._checkpoints.load_newest()
            written_unix_s = (self._run.checkpoints / f"checkpoint-{step:09d}.pt").stat().st_mtime
        except (CheckpointError, OSError):
            return None
        return max(written_unix_s, self.resumed_unix_s)
