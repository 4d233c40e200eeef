"""Interface between the learner and its two ways to train: feed-forward and recurrent networks."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learner.ppo.batch import Batch
from learner.ppo.gradients.backprop import Backprop

Floats = npt.NDArray[np.float32]


class Estimate(NamedTuple):
    """Outputs of the policy for a batch before the update: float32 ``[T, B]``, ``[T + 1, B]`` and ``[K]``.

    ``log_prob`` is of the actions taken. Values are in the unit that they are learned in.
    """

    log_prob: Floats
    value: Floats
    final_value: Floats


class Targets(NamedTuple):
    """Data of the losses, computed once for each batch; float32 ``[T, B]``."""

    behaviour_log_prob: Floats
    advantage: Floats
    target: Floats
    old_value: Floats


class Minibatch(NamedTuple):
    """Data of one gradient step, N rows each. ``weight`` is the share of each row in the loss; it sums to 1."""

    inputs: list[Tensor]
    action: Tensor
    action_mask: Tensor | None
    behaviour_log_prob: Tensor
    advantage: Tensor
    target: Tensor
    old_value: Tensor
    weight: Tensor | float


class PolicyTraining(Protocol):
    """Training of one kind of network: turns batches into minibatches."""

    @property
    def backprop(self) -> Backprop:
        """Passes of the network."""
        ...

    def estimate(self, batch: Batch) -> Estimate:
        """Evaluate the policy over ``batch``, which the next calls refer to."""
        ...

    def set_targets(self, targets: Targets) -> None:
        """Set the targets of the batch."""
        ...

    def epoch(self, minibatch_size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Yield all valid steps of the batch in random order, in minibatches of nearly equal size."""
        ...
