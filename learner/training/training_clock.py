"""Two times of a training: since this process began to train, and since the first environment step of the whole run."""

import time


class TrainingClock:
    """``train_s`` counts from the first environment step, over resumes, without the time in which no learner ran."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._first_step_s: float | None = None
        self._before_s = 0.0
        self._wall_before_s = 0.0

    def first_step_at(self, unix_s: float) -> None:
        """Told with every rollout when it began; only the first counts. Actors' clocks are near this machine's."""
        if self._first_step_s is None:
            age_s = max(0.0, time.time() - unix_s)
            self._first_step_s = max(self._began_s, time.monotonic() - age_s)

    @property
    def train_s(self) -> float:
        """Seconds since the first environment step."""
        if self._first_step_s is None:
            return self._before_s
        return self._before_s + time.monotonic() - self._first_step_s

    @property
    def session_s(self) -> float:
        """Seconds since this process began to train."""
        return time.monotonic() - self._began_s

    @property
    def wall_s(self) -> float:
        """Seconds since this process began to train, and those of the processes that it goes on from."""
        return self._wall_before_s + time.monotonic() - self._began_s

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"train_s": self.train_s, "wall_s": self.wall_s}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        self._before_s = float(state["train_s"])
        self._wall_before_s = float(state["wall_s"])
        self._began_s = time.monotonic()
        self._first_step_s = None
