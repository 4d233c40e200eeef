"""Several rollouts side by side: what one update learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.rollouts.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Batch:
    """As ``shared.rollouts.rollout.Rollout``, with B the sum of the rollouts' environments and K of their final
    observations.
    """

    observation: tuple[npt.NDArray[Any], ...]
    state: tuple[npt.NDArray[np.float32], ...]
    action: npt.NDArray[Any]
    action_mask: npt.NDArray[np.bool_] | None
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    begins_episode: npt.NDArray[np.bool_]
    behaviour_log_prob: npt.NDArray[np.float32]
    final_observation: tuple[npt.NDArray[Any], ...]
    final_index: npt.NDArray[np.int32]

    @property
    def length(self) -> int:
        """T, in steps."""
        return int(self.reward.shape[0])

    @property
    def width(self) -> int:
        """B, in environments."""
        return int(self.reward.shape[1])


def join_rollouts(rollouts: Sequence[Rollout]) -> Batch:
    """One batch of rollouts of the same length; the arrays of a single one are used as they are, others copied once."""
    if not rollouts:
        raise ValueError("expected at least one rollout")
    if len({rollout.length for rollout in rollouts}) != 1:
        raise ValueError(f"expected rollouts of one length; found {sorted({rollout.length for rollout in rollouts})}")
    first = rollouts[0]
    masked = first.action_mask is not None
    return Batch(
        observation=_join_leaves([rollout.observation for rollout in rollouts], 1),
        state=_join_leaves([rollout.state for rollout in rollouts], 0),
        action=_join([rollout.action for rollout in rollouts], 1),
        action_mask=_join([rollout.action_mask for rollout in rollouts], 1) if masked else None,
        reward=_join([rollout.reward for rollout in rollouts], 1),
        terminated=_join([rollout.terminated for rollout in rollouts], 1),
        truncated=_join([rollout.truncated for rollout in rollouts], 1),
        valid=_join([rollout.valid for rollout in rollouts], 1),
        begins_episode=_join([rollout.begins_episode for rollout in rollouts], 1),
        behaviour_log_prob=_join([rollout.behaviour_log_prob for rollout in rollouts], 1),
        final_observation=_join_leaves([rollout.final_observation for rollout in rollouts], 0),
        final_index=_join_final_index(rollouts),
    )


def to_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor over ``array``'s memory; over a copy where that is read-only (received), which torch does not know."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _join(arrays: Sequence[Any], axis: int) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)


def _join_leaves(trees: Sequence[tuple[npt.NDArray[Any], ...]], axis: int) -> tuple[npt.NDArray[Any], ...]:
    return tuple(_join(leaves, axis) for leaves in zip(*trees, strict=True))


def _join_final_index(rollouts: Sequence[Rollout]) -> npt.NDArray[np.int32]:
    """Each rollout's environments stand to the right of those of the rollouts before it."""
    shifted, first_column = [], 0
    for rollout in rollouts:
        shifted.append(rollout.final_index + np.array([0, first_column], np.int32))
        first_column += rollout.batch_size
    joined: npt.NDArray[np.int32] = _join(shifted, 0)
    return joined
