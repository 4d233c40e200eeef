"""Training of recurrent policies: the order of steps matters, so minibatches are sequences of random environments."""

from collections.abc import Iterator

import torch
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.ppo.batch import Batch, to_tensor
from learner.ppo.gradients.accelerate import accelerate
from learner.ppo.gradients.backprop import SequenceReference
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.parts import split_evenly
from learner.ppo.minibatch import Estimate, Minibatch, Targets


class RecurrentTraining:
    """A ``PolicyTraining`` for ``RecurrentCore``. A minibatch's ``inputs`` are those of ``SequenceReference.run``."""

    def __init__(self, policy: ActingPolicy, parameters: FlatParameters, *, torch_compile: bool) -> None:
        self._policy = policy
        self._n_states = len(policy.signature.state)
        self._reference = SequenceReference(policy)
        self.backprop = accelerate(self._reference, parameters, torch_compile=torch_compile)
        self._inputs: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._mask: Tensor | None = None

    def estimate(self, batch: Batch) -> Estimate:
        observation = self._reference.encode_once([to_tensor(leaf) for leaf in batch.observation])
        state = [to_tensor(leaf) for leaf in batch.state]
        keeps = (~to_tensor(batch.begins_episode)).unsqueeze(-1).float()
        states = self._reference.states(state, keeps, observation)
        head, value = self._reference.heads(states[0])

        self._inputs = [*state, keeps[:-1], *(leaf[:-1] for leaf in observation)]
        self._mask = None if batch.action_mask is None else to_tensor(batch.action_mask)
        action = to_tensor(batch.action)
        self._columns = [action, to_tensor(batch.valid)]
        head = head[:-1].flatten(0, 1)
        if self._mask is not None:
            head = mask_logits(head, self._mask.flatten(0, 1))
        terms = self._policy.distribution.terms_of_many(head)
        log_prob = self._policy.distribution.log_prob(terms, action.flatten(0, 1))
        final_value = self._final_value(batch, states)
        return Estimate(
            log_prob.reshape(batch.length, batch.width).numpy(), value.contiguous().numpy(), final_value.numpy()
        )

    def _final_value(self, batch: Batch, states: list[Tensor]) -> Tensor:
        """Return the values ``[K]`` of final observations, each with the state after the step that led to it."""
        t, b = to_tensor(batch.final_index).long().unbind(1)
        features = self._policy.encoder([to_tensor(leaf) for leaf in batch.final_observation])
        _, value, _ = self._policy.core(features, [leaf[t, b] for leaf in states])
        final_value: Tensor = value
        return final_value

    def set_targets(self, targets: Targets) -> None:
        action, valid, *_ = self._columns
        self._columns = [action, valid, *(to_tensor(array) for array in targets)]

    def epoch(self, minibatch_size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        length, width = self._columns[0].shape[:2]
        order = torch.randperm(width, generator=generator)
        for begin, end in split_evenly(width, max(1, minibatch_size // length)):
            chosen = order[begin:end]
            columns = [column.index_select(1, chosen).flatten(0, 1) for column in self._columns]
            action, valid, behaviour_log_prob, advantage, target, old_value = columns
            if not valid.any():
                continue
            state = [leaf.index_select(0, chosen) for leaf in self._inputs[: self._n_states]]
            sequences = [leaf.index_select(1, chosen) for leaf in self._inputs[self._n_states :]]
            mask = None if self._mask is None else self._mask.index_select(1, chosen).flatten(0, 1)
            yield Minibatch(
                inputs=[*state, *sequences],
                action=action,
                action_mask=mask,
                behaviour_log_prob=behaviour_log_prob,
                advantage=advantage,
                target=target,
                old_value=old_value,
                weight=valid.float() / valid.sum(),
            )
