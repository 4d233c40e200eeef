"""Batches are evaluated in parts that fit a cache; the result is that of the whole batch."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learner.ppo.gradients import backprop
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.ppo.policy_training import FeedForwardTraining, join_rollouts, to_tensor
from shared.engines.row_compiler import llvm_program
from shared.policy.spaces import action_spec, observation_leaves
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout
from tests.support.acted_rollouts import act_rollout
from tests.support.rollout_examples import example_rollout, plain_layout, rich_layout


@pytest.mark.parametrize("hidden_size", [8, 300], ids=["compiled", "layer by layer"])
@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (8, 8, 1), np.uint8)], ids=["vector", "image"]
)
def test_an_estimate_in_parts_is_that_of_the_whole(
    space: spaces.Space[object], hidden_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llvm_program, "_MOST_IN_MATRIX", 1000)
    learner = Learner(
        observation_leaves(space), action_spec(spaces.Discrete(3)), LearnerConfig(hidden_sizes=(hidden_size,))
    )
    training = learner._training
    assert isinstance(training, FeedForwardTraining)
    batch = join_rollouts([act_rollout(learner.policy, seed=seed) for seed in range(2)])
    whole = training.estimate(batch)
    monkeypatch.setattr(backprop, "_CACHE_ROWS", 4)
    for found, expected in zip(training.estimate(batch), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


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
