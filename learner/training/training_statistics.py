"""What a training counts: steps, updates, and the returns of its last hundred episodes."""

from collections import deque
from collections.abc import Iterable

import msgspec

from learner.publishing.published_versions import PublishedVersions
from shared.rollouts.rollout import EpisodeEnds

WINDOW_EPISODES = 100


class LoopCounters(msgspec.Struct):
    """The learner loop's own counters; all of them survive in checkpoints.

    ``reloads`` counts how often an actor's rollouts came from another version than its rollout before; ``published``
    is as of the last checkpoint; ``target_reached`` is the target that ``time_to_target_s`` is of.
    """

    updates: int = 0
    env_steps: int = 0
    reloads: int = 0
    checkpoints: int = 0
    published: PublishedVersions = PublishedVersions()
    time_to_target_s: float | None = None
    target_reached: float | None = None

    def forget_lower_target(self, target_return: float | None) -> None:
        """A run that goes on with a higher target than it has reached has not reached that one."""
        if target_return is not None and (self.target_reached is None or self.target_reached < target_return):
            self.time_to_target_s = self.target_reached = None


class EpisodeWindow:
    """Returns of the last ``WINDOW_EPISODES`` finished episodes, whichever actor finished them."""

    def __init__(self, returns: Iterable[float] = (), finished: int = 0) -> None:
        self._returns: deque[float] = deque(returns, maxlen=WINDOW_EPISODES)
        self.finished = finished

    def add(self, episodes: EpisodeEnds) -> None:
        """Take up the episodes that a rollout reports, in order."""
        self._returns.extend(episodes.returns)
        self.finished += len(episodes.returns)

    @property
    def mean_return(self) -> float | None:
        """Mean over the window, or None before the first episode has ended."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def solved(self, target_return: float) -> bool:
        """Whether a full window averages at least ``target_return``: fewer episodes prove nothing."""
        mean = self.mean_return
        return mean is not None and len(self._returns) == WINDOW_EPISODES and mean >= target_return

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"returns": list(self._returns), "finished": self.finished}

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "EpisodeWindow":
        """From a checkpoint. Raises msgspec.ValidationError where it is not one."""
        return cls(
            msgspec.convert(state["returns"], list[float]),
            msgspec.convert(state["finished"], int),
        )
