"""Who acts while a version is on trial: assignment, drawn by lot, and the returns of the episodes in them.

In one turn one version acts, until every environment has finished one whole episode that began in it, and those count.
The lot is drawn anew for each turn, whatever was seen before, and both versions' assignment are counted by the
same rule. So
where both are equally good nothing tells their episodes apart, neither their lengths nor their order, and the test of
``actor/canary/rank_sum_test.py`` errs as seldom as it says. (To count whatever ends would prefer short episodes,
and more so for
the version that acts less.)
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
    """The returns seen here of the version on trial and of the one that acts, oldest first; never changed."""

    candidate: LoadedPolicy
    baseline: LoadedPolicy
    candidate_returns: tuple[float, ...] = ()
    baseline_returns: tuple[float, ...] = ()


class CanaryAssignment:
    """Gives a version on trial a ``share`` of the assignment of ``num_envs`` environments. The acting thread's."""

    def __init__(self, share: float, num_envs: int, seed: int) -> None:
        self.share = share
        self.evidence: Evidence | None = None  # replaced, never changed: the loader's thread reads it
        self._rows = frozenset(range(num_envs))
        self._lots = np.random.default_rng([seed, 0xCA9A])
        self._candidate_acts = False
        self._uncounted: set[int] = set()  # environments whose episode of this turn is still to end
        self._running: set[int] = set()  # environments whose next end is that of an episode begun before
        self._ended: list[float] = []

    def candidate_acts(self, baseline: LoadedPolicy, candidate: LoadedPolicy | None, *, begins_episodes: bool) -> bool:
        """Whether ``candidate`` acts from here on instead of ``baseline``: the same answer until the turn is over."""
        if candidate is None:
            self.evidence = None
            return False
        seen = self.evidence
        if seen is None or seen.candidate is not candidate or seen.baseline is not baseline:
            self.evidence = Evidence(candidate, baseline)
        elif self._uncounted:
            return self._candidate_acts
        self._candidate_acts = bool(self._lots.random() < self.share)
        self._uncounted = set(self._rows)
        self._running = set() if begins_episodes else set(self._rows)
        self._ended = []
        return self._candidate_acts

    def ended(self, finished: Sequence[FinishedEpisode]) -> None:
        """These episodes ended, in this order, since the version that acts was asked for last."""
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
        """Turns count whole: the first environments to finish an episode are those where it was short."""
        if self._candidate_acts:
            self.evidence = replace(seen, candidate_returns=(seen.candidate_returns + returns)[-MOST_RETURNS:])
        else:
            self.evidence = replace(seen, baseline_returns=(seen.baseline_returns + returns)[-MOST_RETURNS:])
