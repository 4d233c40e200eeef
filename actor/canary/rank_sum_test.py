"""Whether a new version's returns are worse than those of the version that acts: one look, at a stated error rate.

The test is the one-sided Wilcoxon-Mann-Whitney rank-sum test with its exact permutation distribution, ties included
(midranks), by the shift algorithm: Streitberg and Röhmel, "Exact distributions for permutation and rank tests", 1986.
It asks nothing of the returns but their order, and its error rate holds exactly, since who acts an episode is drawn by
lot: where both versions are equally good, every assignment of the returns to the two is as likely as the one found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPISODES = 20
"""The one look is taken once both versions have at least so many episodes."""
ERROR_RATE = 0.01
"""How often a version that is as good as the one that acts is taken for a worse one, at most."""

# The time is about proportional to these, squared and not: 0.1 s here. More episodes than these are not looked at.
_CANDIDATES_COUNTED = 40
_BASELINES_COUNTED = 200


@dataclass(frozen=True)
class Verdict:
    """What the look said; ``p`` is how likely returns as bad as these, or worse, are of an equally good version."""

    is_worse: bool
    p: float
    candidate_mean: float
    baseline_mean: float
    candidate_episodes: int
    baseline_episodes: int

    def describe(self) -> str:
        """``mean return 9.4 in 20 episodes, beside 182 in 180 (p = 1e-12, …)``."""
        return (
            f"mean return {self.candidate_mean:.4g} in {self.candidate_episodes} episodes, beside "
            f"{self.baseline_mean:.4g} in {self.baseline_episodes} of the version that acts "
            f"(p = {self.p:.2g}, one-sided rank-sum test at {ERROR_RATE:g})"
        )


def rank_sum_test(candidate: Sequence[float], baseline: Sequence[float]) -> Verdict | None:
    """The verdict on finite returns, or None while there are fewer than ``EPISODES`` of either.

    The one look must be taken as soon as there are enough: whoever looks again and again, and stops when it suits,
    errs more often than stated. When it is taken may depend on how many episodes have ended, never on their returns.
    """
    if min(len(candidate), len(baseline)) < EPISODES:
        return None
    new = np.asarray(candidate[:_CANDIDATES_COUNTED], np.float64)
    old = np.asarray(baseline[-_BASELINES_COUNTED:], np.float64)
    p = p_value(new, old)
    return Verdict(p <= ERROR_RATE, p, float(new.mean()), float(old.mean()), new.size, old.size)


def p_value(candidate: np.ndarray, baseline: np.ndarray) -> float:
    """P(rank sum of ``candidate`` as low as this, or lower) where all assignments of the ranks are equally likely.

    Both are [n], finite, not empty.
    """
    ranks = _doubled_midranks(np.concatenate((candidate, baseline)))
    size, found = candidate.size, int(ranks[: candidate.size].sum())
    # counts[k, s]: the choices of k of the ranks seen so far whose sum is s; sums above the one found are left out.
    counts = np.zeros((size + 1, found + 1))
    counts[0, 0] = 1.0
    for rank in ranks[ranks <= found]:
        counts[1:, rank:] += counts[:-1, : found + 1 - rank]
    return float(counts[size].sum() / _choices(ranks.size, size))


def _doubled_midranks(values: np.ndarray) -> np.ndarray:
    """Twice the ranks 1 to n, so that those of ties, the mean of their places, are whole numbers too."""
    _, which, ties = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(ties)
    doubled: np.ndarray = (2 * last - ties + 1)[which]
    return doubled


def _choices(n: int, k: int) -> float:
    """How many ways there are to choose ``k`` of ``n``, as a float: it is compared with a sum of floats."""
    return float(np.prod([(n - i) / (k - i) for i in range(k)]))
