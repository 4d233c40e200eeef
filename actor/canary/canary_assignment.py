"""The assignment of episodes to a candidate or its baseline, and the returns of those episodes.

In one turn one version acts, until every environment has finished one whole episode that began in it; those episodes
count. Each turn is drawn independently of all returns, and the turns of both versions count by the same rule. So
episodes of equally good versions differ neither in length nor in order, and ``rank_sum_test`` keeps its error rate. (To
count every episode that ends would favour short episodes, and more so for the version that acts less.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from actor.canary.canary_ledger import MOST_RETURNS
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode


@dataclass(frozen=True)
class Evidence:
    """The returns of the candidate and of the baseline seen here, oldest first. Immutable."""

    candidate: LoadedPolicy
    baseline: LoadedPolicy
    candidate_returns: tuple[float, ...] = ()
    baseline_returns: tuple[float, ...] = ()


class CanaryAssignment:
    """Assigns a candidate a ``share`` of the turns of ``num_envs`` environments. Only the acting thread uses it."""

    def __init__(self, share: float, num_envs: int, seed: int) -> None:
        self.share = share
        self.evidence: Evidence | None = None  # replaced, never changed: the loader thread reads it
        self._rows = frozenset(range(num_envs))
        self._draws = np.random.default_rng([seed, 0xCA9A])
        self._candidate_acts = False
        self._uncounted: set[int] = set()  # environments whose episode of this turn has not ended
        self._running: set[int] = set()  # environments whose episode began before this turn
        self._ended: list[float] = []

    def candidate_acts(self, baseline: LoadedPolicy, candidate: LoadedPolicy | None, *, begins_episodes: bool) -> bool:
        """Return True when ``candidate`` acts instead of ``baseline``: the same answer until the turn is over."""
        if candidate is None:
            self.evidence = None
            return False
        seen = self.evidence
        if seen is None or seen.candidate is not candidate or seen.baseline is not baseline:
            self.evidence = Evidence(candidate, baseline)
        elif self._uncounted:
            return self._candidate_acts
        self._candidate_acts = bool(self._draws.random() < self.share)
        self._uncounted = set(self._rows)
        self._running = set() if begins_episodes else set(self._rows)
        self._ended = []
        return self._candidate_acts

    def ended(self, finished: Sequence[FinishedEpisode]) -> None:
        """Count finished episodes, in the order of their ends, since the last ``candidate_acts``."""
        if self.evidence is None:
            return
        for episode in finished:
            if episode.row in self._running:
                self._running.discard(episode.row)
            elif episode.row in self._uncounted:
                self._uncounted.discard(episode.row)
                self._ended.append(episode.episode_return)
        if not self._uncounted and self._ended:
            self._count(self.evidence, tuple(filter(math.isfinite, self._ended)))
            self._ended = []

    def _count(self, seen: Evidence, returns: tuple[float, ...]) -> None:
        """Count a whole turn: the first environments to finish an episode are those with a short one."""
        if self._candidate_acts:
            self.evidence = replace(seen, candidate_returns=(seen.candidate_returns + returns)[-MOST_RETURNS:])
        else:
            self.evidence = replace(seen, baseline_returns=(seen.baseline_returns + returns)[-MOST_RETURNS:])
