"""Counters, durations and schedules of a training, and the returns of its last episodes."""

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from learner.publishing.policy_publisher import PublishedVersions
from shared.rollouts.rollout import EpisodeEnds

WINDOW_EPISODES = 100


class LoopCounters(msgspec.Struct):
    """Counters of the learner loop, kept in checkpoints.

    ``reloads`` counts rollouts of another version than the actor's previous one, ``checkpoints`` also those that could
    not be written. ``skipped_updates`` were not finite and had no effect; ``updates`` counts the others. ``published``
    is as of the last checkpoint; ``time_to_target_s`` refers to ``target_reached``.
    """

    updates: int = 0
    env_steps: int = 0
    reloads: int = 0
    checkpoints: int = 0
    skipped_updates: int = 0
    published: PublishedVersions = PublishedVersions()
    time_to_target_s: float | None = None
    target_reached: float | None = None

    def forget_lower_target(self, target_return: float | None) -> None:
        """Discard ``time_to_target_s`` if a resumed run has a higher target than the one that was reached."""
        if target_return is not None and (self.target_reached is None or self.target_reached < target_return):
            self.time_to_target_s = self.target_reached = None


class EpisodeWindow:
    """Returns of the last ``WINDOW_EPISODES`` finished episodes of all actors."""

    def __init__(self, returns: Iterable[float] = (), finished: int = 0) -> None:
        self._returns: deque[float] = deque(returns, maxlen=WINDOW_EPISODES)
        self.finished = finished

    def add(self, episodes: EpisodeEnds) -> None:
        self._returns.extend(episodes.returns)
        self.finished += len(episodes.returns)

    @property
    def mean_return(self) -> float | None:
        """Mean return of the window; None before the end of the first episode."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def solved(self, target_return: float) -> bool:
        """Return True if the window is full and its mean return is at least ``target_return``."""
        mean = self.mean_return
        return mean is not None and len(self._returns) == WINDOW_EPISODES and mean >= target_return

    def state(self) -> dict[str, object]:
        return {"returns": list(self._returns), "finished": self.finished}

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "EpisodeWindow":
        """Return the window in a checkpoint. Raises msgspec.ValidationError if it has another form."""
        return cls(msgspec.convert(state["returns"], list[float]), msgspec.convert(state["finished"], int))


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
        self._last_update, self._last_s = update, now_s

    def is_due(self, update: int, now_s: float) -> bool:
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
        """Start ``train_s`` once, at a rollout's first step, at most now and at least the start of this process."""
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
        return {"train_s": self.train_s, "wall_s": self.wall_s}

    def restore(self, state: dict[str, float]) -> None:
        self._before_s = float(state["train_s"])
        self._wall_before_s = float(state["wall_s"])
        self._began_s = time.monotonic()
        self._first_step_s = None
