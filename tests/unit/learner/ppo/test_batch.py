"""Rollouts side by side, of any width, from memory that may be read-only."""

import numpy as np
import pytest
import torch

from learner.ppo.batch import join_rollouts, to_tensor
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout
from tests.support.rollout_examples import example_rollout, plain_layout, rich_layout


def test_environments_stand_side_by_side_and_finals_keep_pointing_at_theirs() -> None:
    layout = rich_layout(length=4)
    rollouts = [example_rollout(layout, 2, finals=1), example_rollout(layout, 3, seed=1, finals=5)]
    batch = join_rollouts(rollouts)
    assert (batch.length, batch.width) == (4, 5)
    first_column = 0
    first_final = 0
    for rollout in rollouts:
        columns = slice(first_column, first_column + rollout.batch_size)
        np.testing.assert_array_equal(batch.reward[:, columns], rollout.reward)
        np.testing.assert_array_equal(batch.action_mask[:, columns], rollout.action_mask)
        for joined, leaf in zip(batch.state, rollout.state, strict=True):
            np.testing.assert_array_equal(joined[columns], leaf)
        for i, (t, b) in enumerate(rollout.final_index):
            assert tuple(batch.final_index[first_final + i]) == (t, b + first_column)
        for joined, leaf in zip(batch.final_observation, rollout.final_observation, strict=True):
            np.testing.assert_array_equal(joined[first_final : first_final + len(leaf)], leaf)
        first_column += rollout.batch_size
        first_final += len(rollout.final_index)


def test_a_single_rollout_is_not_copied() -> None:
    rollout = example_rollout(plain_layout())
    assert join_rollouts([rollout]).reward is rollout.reward


def test_received_arrays_are_read_only_and_make_no_warning() -> None:
    layout = plain_layout()
    sent = example_rollout(layout)
    received = decode_rollout([bytes(frame) for frame in encode_rollout(sent)], layout)
    assert not received.reward.flags.writeable
    tensor = to_tensor(join_rollouts([received]).reward)
    np.testing.assert_array_equal(tensor.numpy(), sent.reward)
    tensor.zero_()
    np.testing.assert_array_equal(received.reward, sent.reward)
    own = np.ones(3, np.float32)
    assert to_tensor(own).data_ptr() == torch.from_numpy(own).data_ptr()


def test_rollouts_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        join_rollouts([example_rollout(plain_layout(4)), example_rollout(plain_layout(5))])
    with pytest.raises(ValueError, match="at least one"):
        join_rollouts([])
