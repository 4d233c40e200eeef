"""Training without memory: a batch is estimated in parts that fit a cache, and is one batch all the same."""

import numpy as np
import pytest
from gymnasium import spaces

from learner import feed_forward
from learner.batch import join_rollouts
from learner.config import LearnerConfig
from learner.feed_forward import FeedForwardTraining
from learner.learner import Learner
from shared.spaces import action_spec, observation_leaves
from tests.acted_rollouts import act_rollout


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (8, 8, 1), np.uint8)], ids=["vector", "image"]
)
def test_an_estimate_in_parts_is_that_of_the_whole(
    space: spaces.Space[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(observation_leaves(space), action_spec(spaces.Discrete(3)), LearnerConfig(hidden_sizes=(8,)))
    training = learner._training
    assert isinstance(training, FeedForwardTraining)
    batch = join_rollouts([act_rollout(learner.policy, seed=seed) for seed in range(2)])
    whole = training.estimate(batch)
    monkeypatch.setattr(feed_forward, "_CACHE_ROWS", 4)
    for found, expected in zip(training.estimate(batch), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
