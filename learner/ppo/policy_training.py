"""The two ways to train: on random steps with feed-forward networks, on sequences with recurrent networks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.distributions import mask_logits
from learner.ppo.gradients.accelerate import accelerate
from learner.ppo.gradients.backprop import Backprop, FlatParameters, RowReference, SequenceReference, split_evenly
from shared.rollouts.rollout import Rollout

Array = npt.NDArray[np.generic]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays as in ``shared.rollouts.rollout.Rollout``; B environments and K final observations over all rollouts."""

    observation: tuple[Array, ...]
    state: tuple[npt.NDArray[np.float32], ...]
    action: Array
    action_mask: npt.NDArray[np.bool_] | None
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    begins_episode: npt.NDArray[np.bool_]
    behaviour_log_prob: npt.NDArray[np.float32]
    final_observation: tuple[Array, ...]
    final_index: npt.NDArray[np.int32]

    @property
    def length(self) -> int:
        return int(self.reward.shape[0])

    @property
    def width(self) -> int:
        return int(self.reward.shape[1])


def join_rollouts(rollouts: Sequence[Rollout]) -> Batch:
    """Return one batch of rollouts of equal length, else raise ValueError. A single rollout's arrays are not copied."""
    if not rollouts:
        raise ValueError("expected at least one rollout")
    if len({rollout.length for rollout in rollouts}) != 1:
        raise ValueError(f"expected rollouts of one length; found {sorted({rollout.length for rollout in rollouts})}")
    masks = [rollout.action_mask for rollout in rollouts if rollout.action_mask is not None]
    return Batch(
        observation=_join_leaves([rollout.observation for rollout in rollouts], 1),
        state=_join_leaves([rollout.state for rollout in rollouts], 0),
        action=_join([rollout.action for rollout in rollouts], 1),
        action_mask=_join(masks, 1) if masks else None,
        reward=_join([rollout.reward for rollout in rollouts], 1),
        terminated=_join([rollout.terminated for rollout in rollouts], 1),
        truncated=_join([rollout.truncated for rollout in rollouts], 1),
        valid=_join([rollout.valid for rollout in rollouts], 1),
        begins_episode=_join([rollout.begins_episode for rollout in rollouts], 1),
        behaviour_log_prob=_join([rollout.behaviour_log_prob for rollout in rollouts], 1),
        final_observation=_join_leaves([rollout.final_observation for rollout in rollouts], 0),
        final_index=_join_final_index(rollouts),
    )


def to_tensor(array: Array) -> Tensor:
    """Return a tensor that shares the array's memory, or a copy of a read-only array, which torch does not support."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _join(arrays: Sequence[npt.NDArray[_Scalar]], axis: int) -> npt.NDArray[_Scalar]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)


def _join_leaves(trees: Sequence[tuple[npt.NDArray[_Scalar], ...]], axis: int) -> tuple[npt.NDArray[_Scalar], ...]:
    return tuple(_join(leaves, axis) for leaves in zip(*trees, strict=True))


def _join_final_index(rollouts: Sequence[Rollout]) -> npt.NDArray[np.int32]:
    shifted, first_column = [], 0
    for rollout in rollouts:
        shifted.append(rollout.final_index + np.array([0, first_column], np.int32))
        first_column += rollout.batch_size
    return _join(shifted, 0)


Floats = npt.NDArray[np.float32]


class Estimate(NamedTuple):
    """Outputs before the update: log-probabilities ``[T, B]``, values ``[T + 1, B]`` and ``[K]``, float32."""

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

    def estimate(self, batch: Batch) -> Estimate:
        """Evaluate the policy over ``batch``, which the next calls refer to."""

    def set_targets(self, targets: Targets) -> None:
        """Set the targets of the batch."""

    def epoch(self, minibatch_size: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Yield all valid steps of the batch in random order, in minibatches of nearly equal size."""


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
            columns = behaviour_log_prob, advantage, target, old_value
            yield Minibatch(part[:n], action, mask[0] if mask else None, *columns, weight=1.0 / (end - begin))


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
            targets = behaviour_log_prob, advantage, target, old_value
            yield Minibatch([*state, *sequences], action, mask, *targets, weight=valid.float() / valid.sum())
