"""When publishing and checkpointing are due, and how long a training has run."""

import time
from typing import NamedTuple


class Interval(NamedTuple):
    """A number of updates or of seconds, whichever passes first; ``seconds`` may be None."""

    updates: int
    seconds: float | None = None


class Schedule:
    """Decides when a repeated action is due: an interval after its last time, if there was another update since."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval
        self._last_update = 0
        self._last_s: float | None = None

    def happened(self, update: int, now_s: float) -> None:
        """Record that the action happened after ``update`` updates, at ``now_s`` of a monotonic clock."""
        self._last_update, self._last_s = update, now_s

    def is_due(self, update: int, now_s: float) -> bool:
        """Return True if the action is due."""
        if self.is_current(update):
            return False
        updates, seconds = self._interval
        if update - self._last_update >= updates:
            return True
        return seconds is not None and self._last_s is not None and now_s - self._last_s >= seconds

    def is_current(self, update: int) -> bool:
        """Return True if there was no update since the action last happened."""
        return self._last_s is not None and update == self._last_update


class TrainingClock:
    """Durations of a training, in seconds, over all processes of the run that a checkpoint connects."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._first_step_s: float | None = None
        self._before_s = 0.0
        self._wall_before_s = 0.0

    def first_step_at(self, unix_s: float) -> None:
        """Start ``train_s`` at the Unix time of a rollout's first step; later calls have no effect.

        The actor's clock may differ from this machine's: the time is at most now, at least the start of this process.
        """
        if self._first_step_s is None:
            age_s = max(0.0, time.time() - unix_s)
            self._first_step_s = max(self._began_s, time.monotonic() - age_s)

    @property
    def train_s(self) -> float:
        """Seconds since the first environment step, without the time in which no learner ran."""
        if self._first_step_s is None:
            return self._before_s
        return self._before_s + time.monotonic() - self._first_step_s

    @property
    def session_s(self) -> float:
        """Seconds since this process began to train."""
        return time.monotonic() - self._began_s

    @property
    def wall_s(self) -> float:
        """Seconds that this process and the processes before it have trained."""
        return self._wall_before_s + time.monotonic() - self._began_s

    def state(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"train_s": self.train_s, "wall_s": self.wall_s}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from the state in a checkpoint."""
        self._before_s = float(state["train_s"])
        self._wall_before_s = float(state["wall_s"])
        self._began_s = time.monotonic()
        self._first_step_s = None
