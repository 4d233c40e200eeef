"""Running statistics: of observations, carried inside the policy, and of returns, in whose units values are learned."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_SMALLEST_VARIANCE = 1e-8
_SMALLEST_SCALE = 1e-4


class RunningMoments:
    """Mean and variance of all rows seen so far, merged batch by batch in float64.

    Source: Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(size)
        self._squares: npt.NDArray[np.float64] = np.zeros(size)

    def update(self, rows: npt.NDArray[Any]) -> None:
        """Take in ``rows`` of shape ``[N, size]``."""
        if len(rows) == 0:
            return
        columns = rows.T.astype(np.float64, order="C")  # along memory sums go several times as fast
        mean = columns.mean(1)
        columns -= mean[:, np.newaxis]
        squares = np.einsum("ij,ij->i", columns, columns)
        total = self.count + len(rows)
        difference = mean - self.mean
        self.mean = self.mean + difference * (len(rows) / total)
        self._squares = self._squares + squares + np.square(difference) * (self.count * len(rows) / total)
        self.count = total

    @property
    def variance(self) -> npt.NDArray[np.float64]:
        """Population variance ``[size]``; 1 before anything was seen."""
        return self._squares / self.count if self.count else np.ones_like(self._squares)

    @property
    def inverse_std(self) -> npt.NDArray[np.float64]:
        """What to multiply a deviation from the mean with; 0 for what never varied: a first deviation is no shock."""
        variance = self.variance
        return np.where(variance > _SMALLEST_VARIANCE, 1.0 / np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE)), 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "mean": torch.from_numpy(self.mean.copy()),
            "squares": torch.from_numpy(self._squares.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.mean = state["mean"].numpy().copy()
        self._squares = state["squares"].numpy().copy()


class ReturnScale:
    """The root mean square of value targets: the unit in which values are learned where rewards are to be normalised.

    The usual way, a discounted sum carried along each environment, needs to see every step of every environment in
    order; rollouts of many actors come interleaved, and some never. Value targets need no order: each is a whole
    return, bootstrapped where the rollout ends. When the unit changes, the value head is rescaled so that what it
    predicts stays the same (van Hasselt et al. 2016, "Learning values across many orders of magnitude").
    """

    def __init__(self, slowest_rate: float = 0.01) -> None:
        self.scale = 1.0
        self._slowest_rate = slowest_rate
        self._updates = 0
        self._mean_square = 0.0

    def update(self, targets: npt.NDArray[np.float32]) -> None:
        """Take in targets of any shape, in reward units: an average over all at first, over the recent ones later."""
        if targets.size == 0:
            return
        self._updates += 1
        rate = max(1.0 / self._updates, self._slowest_rate)
        self._mean_square += (float(np.mean(np.square(targets, dtype=np.float64))) - self._mean_square) * rate
        self.scale = max(self._mean_square**0.5, _SMALLEST_SCALE)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "updates": self._updates, "mean_square": self._mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self._updates, self._mean_square = state["scale"], state["updates"], state["mean_square"]
