"""Training with memory: the order of steps matters, so whole sequences are shuffled, one for each environment."""

from collections.abc import Iterator

import torch
from loguru import logger
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.networks.networks import LstmCell, RecurrentCore
from learner.ppo.batch import Batch, to_tensor
from learner.ppo.gradients.backprop import AutogradBackprop, Backprop
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.lstm_backprop import LstmBackprop
from learner.ppo.gradients.parts import split_evenly
from learner.ppo.minibatch import Estimate, Minibatch, Targets


class RecurrentTraining:
    """A ``PolicyTraining`` for a ``RecurrentCore``.

    A minibatch's ``inputs`` are the state, ``keeps`` and the observation's leaves: the state is the recorded one before
    the first step; ``keeps`` ``[T, b, 1]`` is 0 where an episode begins (the state is zero there), else 1.
    """

    def __init__(self, policy: ActingPolicy, parameters: FlatParameters) -> None:
        if not isinstance(policy.core, RecurrentCore):
            raise TypeError(f"expected a recurrent policy, found one with a {type(policy.core).__name__}")
        self._policy = policy
        self._core = policy.core
        self._n_states = len(policy.signature.state)
        self._encodes_once = next(policy.encoder.parameters(), None) is None
        self.backprop: Backprop
        if self._encodes_once and isinstance(policy.core.cell, LstmCell):
            self.backprop = LstmBackprop(policy.core, policy.core.cell)
        else:
            self.backprop = AutogradBackprop(self._run, parameters)
        self._inputs: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._mask: Tensor | None = None

    def compile(self) -> None:
        """See PolicyTraining."""
        logger.warning("the update is not compiled: sequences are cut where episodes end, so no two are one program")

    def estimate(self, batch: Batch) -> Estimate:
        observation = self._once([to_tensor(leaf) for leaf in batch.observation])
        state = [to_tensor(leaf) for leaf in batch.state]
        keeps = (~to_tensor(batch.begins_episode)).unsqueeze(-1).float()
        states = self._sequence(self._encode(observation), state, keeps)
        head, value = self._heads(states[0])

        self._inputs = [*state, keeps[:-1], *(leaf[:-1] for leaf in observation)]
        self._mask = None if batch.action_mask is None else to_tensor(batch.action_mask)
        action = to_tensor(batch.action)
        self._columns = [action, to_tensor(batch.valid)]
        head = head[:-1].flatten(0, 1)
        if self._mask is not None:
            head = mask_logits(head, self._mask.flatten(0, 1))
        log_prob = self._policy.distribution.log_prob(
            self._policy.distribution.terms_of_many(head), action.flatten(0, 1)
        )
        final_value = self._final_value(batch, states)
        return Estimate(
            log_prob.reshape(batch.length, batch.width).numpy(), value.contiguous().numpy(), final_value.numpy()
        )

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

    def _run(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        state, (keeps, *observation) = inputs[: self._n_states], inputs[self._n_states :]
        head, value = self._heads(self._sequence(self._encode(observation), state, keeps)[0])
        return head.flatten(0, 1), value.flatten()

    def _once(self, observation: list[Tensor]) -> list[Tensor]:
        """What of the encoding need not be done again for every gradient step."""
        if not self._encodes_once:
            return observation
        length, width = observation[0].shape[:2]
        features: Tensor = self._policy.encoder([leaf.flatten(0, 1) for leaf in observation])
        return [features.reshape(length, width, -1)]

    def _encode(self, observation: list[Tensor]) -> Tensor:
        """What every step's input adds to the cell's gates, ``[T, b, gates * size]``."""
        length, width = observation[0].shape[:2]
        rows = [leaf.flatten(0, 1) for leaf in observation]
        features = rows[0] if self._encodes_once else self._policy.encoder(rows)
        projected: Tensor = self._core.cell.from_input(self._core.hidden(features))
        return projected.reshape(length, width, -1)

    def _sequence(self, projected: Tensor, state: list[Tensor], keeps: Tensor) -> list[Tensor]:
        """The state after every step, each leaf ``[T, b, size]``."""
        states = []
        begins = (keeps == 0).flatten(1).any(1).tolist()
        for t, step in enumerate(projected.unbind(0)):
            if begins[t]:
                state = [leaf * keeps[t] for leaf in state]
            state = self._core.cell.step(step, state)
            states.append(state)
        return [torch.stack(leaf) for leaf in zip(*states, strict=True)]

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        output = self._core.heads(hidden)
        return output[..., : self._core.head_size], output[..., self._core.head_size]

    def _final_value(self, batch: Batch, states: list[Tensor]) -> Tensor:
        """A final observation is seen with the state after the step that led to it."""
        t, b = to_tensor(batch.final_index).long().unbind(1)
        features = self._policy.encoder([to_tensor(leaf) for leaf in batch.final_observation])
        _, value, _ = self._core(features, [leaf[t, b] for leaf in states])
        final_value: Tensor = value
        return final_value
