"""Several rollouts side by side, as the data of one update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
        """Number of steps, T."""
        return int(self.reward.shape[0])

    @property
    def width(self) -> int:
        """Number of environments, B."""
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
    """Return the (t, b) of all final observations, b counted over the environments of all rollouts."""
    shifted, first_column = [], 0
    for rollout in rollouts:
        shifted.append(rollout.final_index + np.array([0, first_column], np.int32))
        first_column += rollout.batch_size
    return _join(shifted, 0)
