"""Training without memory: steps are independent of each other, so they are shuffled one by one."""

from collections.abc import Iterator

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.networks.networks import SeparateCore, SharedCore
from learner.ppo.batch import Batch, to_tensor
from learner.ppo.gradients.backprop import AutogradBackprop, RowBackprop, SeparateCoreBackprop, SharedCoreBackprop
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.parts import split_evenly
from learner.ppo.gradients.torch_compile_function import compile_function
from learner.ppo.minibatch import Estimate, Minibatch, Targets
from shared.policy.probe import make_inputs

_EXAMPLE_ROWS = 8


class FeedForwardTraining:
    """A ``PolicyTraining``. Encoders without parameters run once for each batch, not once for each gradient step."""

    backprop: RowBackprop

    def __init__(self, policy: ActingPolicy, parameters: FlatParameters) -> None:
        self._policy = policy
        self._encodes_once = next(policy.encoder.parameters(), None) is None
        if self._encodes_once and isinstance(policy.core, SharedCore):
            self.backprop = SharedCoreBackprop(policy.core)
        elif self._encodes_once and isinstance(policy.core, SeparateCore):
            self.backprop = SeparateCoreBackprop(policy.core)
        else:
            self.backprop = AutogradBackprop(self._encode_and_run, parameters)
        self._inputs: list[Tensor] = []
        self._action = self._valid = torch.empty(0)
        self._mask: Tensor | None = None
        self._rows: list[Tensor] = []

    def compile(self) -> None:
        """See PolicyTraining."""
        if not isinstance(self.backprop, AutogradBackprop):
            logger.warning("the update is not compiled: the gradients of this network are written out, not recorded")
            return
        n = len(self._policy.signature.observation)
        example = [torch.from_numpy(leaf) for leaf in make_inputs(self._policy.signature, _EXAMPLE_ROWS, seed=0)[:n]]
        self.backprop.function = compile_function(
            self._encode_and_run,
            list(self._policy.encoder.parameters()) + list(self._policy.core.parameters()),
            example,
        )

    def estimate(self, batch: Batch) -> Estimate:
        n_steps, n_values = batch.length * batch.width, (batch.length + 1) * batch.width
        observation = [
            to_tensor(np.concatenate([leaf.reshape(n_values, *leaf.shape[2:]), final]))
            for leaf, final in zip(batch.observation, batch.final_observation, strict=True)
        ]
        inputs = [self._policy.encoder(observation)] if self._encodes_once else observation
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

    def _encode_and_run(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        head, value, _ = self._policy.core(self._policy.encoder(inputs), [])
        return head, value
