"""Training of feed-forward policies: steps are independent of each other, so minibatches are random steps."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.ppo.batch import Batch, to_tensor
from learner.ppo.gradients.accelerate import accelerate
from learner.ppo.gradients.backprop import RowReference
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.parts import split_evenly
from learner.ppo.minibatch import Estimate, Minibatch, Targets


class FeedForwardTraining:
    """A ``PolicyTraining`` for ``SharedCore`` and ``SeparateCore``."""

    def __init__(self, policy: ActingPolicy, parameters: FlatParameters, *, torch_compile: bool) -> None:
        self._policy = policy
        self._reference = RowReference(policy)
        self.backprop = accelerate(self._reference, parameters, torch_compile=torch_compile)
        self._inputs: list[Tensor] = []
        self._action = self._valid = torch.empty(0)
        self._mask: Tensor | None = None
        self._rows: list[Tensor] = []

    def estimate(self, batch: Batch) -> Estimate:
        n_steps, n_values = batch.length * batch.width, (batch.length + 1) * batch.width
        observation = [
            to_tensor(np.concatenate([leaf.reshape(n_values, *leaf.shape[2:]), final]))
            for leaf, final in zip(batch.observation, batch.final_observation, strict=True)
        ]
        inputs = self._reference.encode_once(observation)
        head, value = self.backprop.evaluate(inputs)

        self._inputs = [tensor[:n_steps] for tensor in inputs]
        self._action = to_tensor(batch.action).flatten(0, 1)
        self._mask = None if batch.action_mask is None else to_tensor(batch.action_mask).flatten(0, 1)
        self._valid = to_tensor(batch.valid).flatten()
        head = head[:n_steps]
        if self._mask is not None:
            head = mask_logits(head, self._mask)
        log_prob = self._policy.distribution.log_prob(self._policy.distribution.terms_of_many(head), self._action)
        return Estimate(
            log_prob.reshape(batch.length, batch.width).numpy(),
            value[:n_values].reshape(batch.length + 1, batch.width).numpy(),
            value[n_values:].numpy(),
        )

    def set_targets(self, targets: Targets) -> None:
        rows = [*self._inputs, self._action, *(to_tensor(array).flatten() for array in targets)]
        if self._mask is not None:
            rows.append(self._mask)
        if not self._valid.all():
            index = self._valid.nonzero().squeeze(-1)
            rows = [tensor.index_select(0, index) for tensor in rows]
        self._rows = rows

    def epoch(self, minibatch_size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        total = len(self._rows[0])
        order = torch.randperm(total, generator=generator)
        # Shuffled once, a minibatch is a slice of each tensor.
        shuffled = [tensor.index_select(0, order) for tensor in self._rows]
        n = len(self._inputs)
        for begin, end in split_evenly(total, minibatch_size):
            part = [tensor[begin:end] for tensor in shuffled]
            action, behaviour_log_prob, advantage, target, old_value, *mask = part[n:]
            yield Minibatch(
                inputs=part[:n],
                action=action,
                action_mask=mask[0] if mask else None,
                behaviour_log_prob=behaviour_log_prob,
                advantage=advantage,
                target=target,
                old_value=old_value,
                weight=1.0 / (end - begin),
            )
