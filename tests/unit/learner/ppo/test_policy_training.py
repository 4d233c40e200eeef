"""Batches are evaluated in parts that fit a cache; the result is that of the whole batch."""

import numpy as np
import pytest
from gymnasium import spaces

from learner.ppo.batch import join_rollouts
from learner.ppo.gradients import backprop
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.ppo.policy_training import FeedForwardTraining
from shared.engines.row_compiler import llvm_program
from shared.policy.spaces import action_spec, observation_leaves
from tests.support.acted_rollouts import act_rollout


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
