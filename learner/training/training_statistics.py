"""Counters of a training, and the returns of its last episodes."""

from collections import deque
from collections.abc import Iterable

import msgspec

from learner.publishing.published_versions import PublishedVersions
from shared.rollouts.rollout import EpisodeEnds

WINDOW_EPISODES = 100


class LoopCounters(msgspec.Struct):
    """Counters of the learner loop, kept in checkpoints.

    ``reloads`` counts rollouts of another version than the actor's previous one, ``checkpoints`` also those that could
    not be written. ``published`` is as of the last checkpoint; ``time_to_target_s`` refers to ``target_reached``.
    """

    updates: int = 0
    env_steps: int = 0
    reloads: int = 0
    checkpoints: int = 0
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
        """Add the episodes of a rollout, in order."""
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
        """Return the state for a checkpoint."""
        return {"returns": list(self._returns), "finished": self.finished}

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "EpisodeWindow":
        """Return the window in a checkpoint. Raises msgspec.ValidationError if it has another form."""
        return cls(
            msgspec.convert(state["returns"], list[float]),
            msgspec.convert(state["finished"], int),
        )
