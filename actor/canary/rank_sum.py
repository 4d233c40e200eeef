"""A test of whether a candidate's returns are worse than those of its baseline: one look, at a stated error rate.

The test is the one-sided Wilcoxon-Mann-Whitney rank-sum test with its exact permutation distribution, ties included
(midranks), by the shift algorithm: Streitberg and Röhmel, "Exact distributions for permutation and rank tests", 1986.
It uses only the order of the returns, and its error rate is exact, since episodes are assigned at random: if both
versions are equally good, every assignment of the returns to the two is as likely as the one found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPISODES = 20
"""The episodes of each version that the look needs."""
ERROR_RATE = 0.01
"""The largest probability of taking an equally good version for a worse one."""

# The time is about proportional to the first squared times the second: 0.1 s. Further episodes are not used.
_CANDIDATES_COUNTED = 40
_BASELINES_COUNTED = 200


@dataclass(frozen=True)
class Verdict:
    """The result. ``p``: the probability of returns as low as these or lower from an equally good version."""

    is_worse: bool
    p: float
    candidate_mean: float
    baseline_mean: float
    candidate_episodes: int
    baseline_episodes: int

    def describe(self) -> str:
        """Return ``mean return 9.4 in 20 episodes, beside 182 in 180 (p = 1e-12, …)``."""
        return (
            f"mean return {self.candidate_mean:.4g} in {self.candidate_episodes} episodes, beside "
            f"{self.baseline_mean:.4g} in {self.baseline_episodes} of the version that acts "
            f"(p = {self.p:.2g}, one-sided rank-sum test at {ERROR_RATE:g})"
        )


def rank_sum_test(candidate: Sequence[float], baseline: Sequence[float]) -> Verdict | None:
    """Return the verdict on finite returns, or None while there are fewer than ``EPISODES`` of either.

    Take the one look as soon as there are enough: repeated looks, stopped when they suit, have a higher error rate. The
    time of the look may depend on the number of finished episodes, never on their returns.
    """
    if min(len(candidate), len(baseline)) < EPISODES:
        return None
    new = np.asarray(candidate[:_CANDIDATES_COUNTED], np.float64)
    old = np.asarray(baseline[-_BASELINES_COUNTED:], np.float64)
    p = p_value(new, old)
    return Verdict(p <= ERROR_RATE, p, float(new.mean()), float(old.mean()), new.size, old.size)


def p_value(candidate: np.ndarray, baseline: np.ndarray) -> float:
    """Return P(rank sum of ``candidate`` as low as this, or lower) if all assignments of the ranks are equally likely.

    Both arrays are [n], finite and not empty.
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
    """Return twice the ranks 1 to n: the rank of a tie is the mean of its places, which this makes a whole number."""
    _, which, ties = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(ties)
    doubled: np.ndarray = (2 * last - ties + 1)[which]
    return doubled


def _choices(n: int, k: int) -> float:
    """Return the number of ways to choose ``k`` of ``n``, as a float: it divides a sum of floats."""
    return float(np.prod([(n - i) / (k - i) for i in range(k)]))
