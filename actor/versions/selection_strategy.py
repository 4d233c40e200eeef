"""The strategies that decide which version is loaded next and which role it gets.

``PolicyLoader`` works with any ``SelectionStrategy``. Those that follow the newest version, a pinned one or the history
are here; ``actor/canary`` has another.
"""

from collections.abc import Container, Sequence
from typing import Protocol

import numpy as np

from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from actor.versions.follow_rules import Follow, History, draw_older, select_version
from actor.versions.policy_manager import PolicyManager
from shared.engines.engine import Engine, EngineKind

_DRAW_STREAM = 0xD6A2


class SelectionStrategy(Protocol):
    """Selects versions and places loaded ones. Methods run on the loader thread unless they say otherwise."""

    follow: Follow
    decides_with_others: bool = False
    """True when other actors take part in the decisions. The loader then looks often, and no caller waits for a
    version."""

    def look(self) -> None:
        """Take note of what happened since the last call. The loader calls this before each selection."""
        return

    def select(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        """Return the version to load now, or None.

        Args:
            known: Committed versions, ascending.
            unusable: Versions that failed, or whose retry is not due yet.
        """

    def take_spare(self, kind: EngineKind, program_digest: str) -> Engine | None:
        """Return an engine that the selected version may overwrite, or None."""

    def place(self, policy: LoadedPolicy) -> None:
        """Give a loaded version its role."""

    def failed(self, digest: str, reason: str) -> None:  # noqa: ARG002
        """Take note that this actor quarantined ``digest``."""
        return

    def episode_began(self) -> bool:
        """Return True if there may be something to select for this episode. Called on the acting thread."""
        return False

    def episodes_ended(self, finished: Sequence[FinishedEpisode]) -> None:  # noqa: ARG002
        """Take note of finished episodes, in the order of their ends. Called on the acting thread."""
        return


class FollowSelection(SelectionStrategy):
    """Follows the newest version, or a pinned one."""

    def __init__(self, follow: Follow, manager: PolicyManager) -> None:
        self.follow = follow
        self._manager = manager

    def select(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        manager = self._manager
        return select_version(self.follow, known, unusable, manager.held_version, manager.highest_acted)

    def take_spare(self, kind: EngineKind, program_digest: str) -> Engine | None:
        return self._manager.take_spare(kind, program_digest, withdraw_ready=True)

    def place(self, policy: LoadedPolicy) -> None:
        self._manager.offer(policy)


class HistorySelection(FollowSelection):
    """Follows the newest version, and once an episode may draw an older one."""

    def __init__(self, follow: History, manager: PolicyManager, seed: int) -> None:
        super().__init__(follow, manager)
        self._probability = follow.probability
        self._draws = np.random.default_rng([seed, _DRAW_STREAM])
        self._is_draw_due = True
        self._drawn: int | None = None

    def select(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        newer = super().select(known, unusable)
        self._drawn = self._draw(known, unusable) if newer is None else None
        return newer if newer is not None else self._drawn

    def take_spare(self, kind: EngineKind, program_digest: str) -> Engine | None:
        return self._manager.take_spare(kind, program_digest, withdraw_ready=self._drawn is None)

    def place(self, policy: LoadedPolicy) -> None:
        if policy.version == self._drawn:
            self._manager.offer_draw(policy)
        else:
            self._manager.offer(policy)

    def episode_began(self) -> bool:
        self._is_draw_due = True
        return True

    def _draw(self, known: Sequence[int], unusable: Container[int]) -> int | None:
        """Return the version to load for the next episode; None if the newest acts, or one that is in memory."""
        newest = self._manager.newest
        if not self._is_draw_due or newest is None or self._manager.has_draw:
            return None
        self._is_draw_due = False
        coin, place = self._draws.random(2)
        if coin >= self._probability:
            return None
        version = draw_older(known, unusable, newest.version, place)
        return None if version is None or self._manager.draw_held(version) else version
