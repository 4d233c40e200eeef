"""Running statistics of observations, for the policy, and of returns, which set the unit that values are learned in."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

_SMALLEST_VARIANCE = 1e-8
_SMALLEST_SCALE = 1e-4
_LARGEST_RATIO = 10.0
_LARGEST_EARLY_RATIO = 3.0


class MomentsState(TypedDict):
    """State of ``RunningMoments``; tensors are float64 ``[size]``."""

    count: int
    mean: torch.Tensor
    squares: torch.Tensor


class RunningMoments:
    """Mean and variance of all rows so far, merged batch by batch in float64 (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(size)
        self._squares: npt.NDArray[np.float64] = np.zeros(size)

    def update(self, rows: npt.NDArray[np.generic]) -> None:
        """Add ``rows`` of shape ``[N, size]``."""
        if len(rows) == 0:
            return
        columns = rows.T.astype(np.float64, order="C")  # sums along contiguous memory are several times as fast
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
        """Population variance ``[size]``; 1 before the first row."""
        return self._squares / self.count if self.count else np.ones_like(self._squares)

    @property
    def inverse_std(self) -> npt.NDArray[np.float64]:
        """Reciprocal standard deviation ``[size]``; 0 for constants, so that their first deviation is not huge."""
        variance = self.variance
        return np.where(variance > _SMALLEST_VARIANCE, 1.0 / np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE)), 0.0)

    def state_dict(self) -> MomentsState:
        return {
            "count": self.count,
            "mean": torch.from_numpy(self.mean.copy()),
            "squares": torch.from_numpy(self._squares.copy()),
        }

    def load_state_dict(self, state: MomentsState) -> None:
        self.count = state["count"]
        self.mean = state["mean"].numpy().copy()
        self._squares = state["squares"].numpy().copy()


class ScaleState(TypedDict):
    scale: float
    updates: int
    mean_square: float


class ReturnScale:
    """Root mean square of value targets: the unit that values are learned in when rewards are normalised.

    A discounted sum of each environment's rewards would need all steps in order. When the unit changes, the value head
    is rescaled, so that its predictions stay the same (van Hasselt et al. 2016, "Learning values across many orders of
    magnitude", section 2.1).

    A batch counts with at most ``_LARGEST_RATIO`` times the present scale, so that an outlier makes the scale 1.4 times
    as large at most, and 70 updates forget it. In the first hundred updates, when each batch counts for more, the scale
    is also at most ``_LARGEST_EARLY_RATIO`` times that of the newest batch.
    """

    def __init__(self, slowest_rate: float = 0.01) -> None:
        self.scale = 1.0
        self._slowest_rate = slowest_rate
        self._updates = 0
        self._mean_square = 0.0

    def update(self, targets: npt.NDArray[np.float32]) -> None:
        """Add targets of any shape, in units of rewards; old ones are forgotten exponentially."""
        if targets.size == 0:
            return
        self._updates += 1
        rate = max(1.0 / self._updates, self._slowest_rate)
        mean_square = float(np.mean(np.square(targets, dtype=np.float64)))
        counted = mean_square
        if self._mean_square > _SMALLEST_SCALE**2:
            counted = min(mean_square, self._mean_square * _LARGEST_RATIO**2)
        self._mean_square += (counted - self._mean_square) * rate
        if rate > self._slowest_rate and mean_square > _SMALLEST_SCALE**2:
            self._mean_square = min(self._mean_square, mean_square * _LARGEST_EARLY_RATIO**2)
        self.scale = max(self._mean_square**0.5, _SMALLEST_SCALE)

    def state_dict(self) -> ScaleState:
        return {"scale": self.scale, "updates": self._updates, "mean_square": self._mean_square}

    def load_state_dict(self, state: ScaleState) -> None:
        self.scale, self._updates, self._mean_square = state["scale"], state["updates"], state["mean_square"]
