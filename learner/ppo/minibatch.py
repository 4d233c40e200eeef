"""What passes between the learner and the way it trains one kind of network."""

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
    """What the policy makes of a batch before the update. Values are in the units that the network learns in.

    ``log_prob`` ``[T, B]`` is that of the actions taken; ``value`` ``[T + 1, B]``; ``final_value`` ``[K]``.
    """

    log_prob: Floats
    value: Floats
    final_value: Floats


class Targets(NamedTuple):
    """What every step is learned towards, all ``[T, B]``."""

    behaviour_log_prob: Floats
    advantage: Floats
    target: Floats
    old_value: Floats


class Minibatch(NamedTuple):
    """One gradient step's data: N rows each. ``weight`` is each row's share of the loss; it sums to 1 over the rows."""

    inputs: list[Tensor]
    action: Tensor
    action_mask: Tensor | None
    behaviour_log_prob: Tensor
    advantage: Tensor
    target: Tensor
    old_value: Tensor
    weight: Tensor | float


class PolicyTraining(Protocol):
    """How batches become minibatches for one kind of network, feed-forward or recurrent."""

    @property
    def backprop(self) -> Backprop:
        """The passes of the network."""
        ...

    def estimate(self, batch: Batch) -> Estimate:
        """Run the policy over ``batch``, which is kept until the next one."""
        ...

    def set_targets(self, targets: Targets) -> None:
        """What the kept batch is learned towards."""
        ...

    def epoch(self, minibatch_size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Every valid step of the batch once, in a new order, in minibatches of nearly equal size."""
        ...
