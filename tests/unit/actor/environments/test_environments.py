from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.environments.vector_choice import VectorChoice
from shared.errors import ConfigurationError
from shared.policy.signature import acting_signature

COUNTING = "tests.support.counting_environment:Counting-v0"


def _act(environments: Environments) -> np.ndarray:
    return np.zeros(environments.num_envs, np.int64)


def test_the_vector_entry_point_is_used_where_there_is_one() -> None:
    with make_environments("CartPole-v1", 8) as environments:
        assert not isinstance(environments.vector, SyncVectorEnv)
        assert environments.autoreset_mode is AutoresetMode.NEXT_STEP
        (leaf,) = environments.reset(seed=1)
        assert leaf.shape == (8, 4)


@pytest.mark.parametrize(
    "options", [{"autoreset": AutoresetMode.SAME_STEP}, {"env_kwargs": {"disable_env_checker": 1}}]
)
def test_single_environments_serve_a_mode_or_arguments_that_the_entry_point_lacks(options: dict[str, Any]) -> None:
    with make_environments("CartPole-v1", 3, **options) as environments:
        assert isinstance(environments.vector, SyncVectorEnv)
        assert environments.autoreset_mode is AutoresetMode.SAME_STEP


def test_taxi_gets_no_masked_action() -> None:
    generator = np.random.default_rng(0)
    with make_environments("Taxi-v4", 4) as environments:
        environments.reset(seed=3)
        for _ in range(300):
            assert environments.action_mask is not None
            assert environments.action_mask.shape == (4, 6)
            action = np.array([generator.choice(np.flatnonzero(row)) for row in environments.action_mask])
            _, reward, *_ = environments.step(action)
            assert reward.min() > -10  # the reward of an illegal pick-up or drop-off


def test_no_masks_where_the_environment_gives_none() -> None:
    with make_environments(COUNTING, 2) as environments:
        environments.reset(seed=0)
        environments.step(_act(environments))
        assert not environments.supports_masks


def test_a_mask_that_comes_with_the_reset_only_allows_everything_afterwards() -> None:
    with make_environments(COUNTING, 2, env_kwargs={"masked": True, "fault": "no mask"}) as environments:
        environments.reset(seed=0)
        environments.step(_act(environments))
        assert environments.action_mask is not None
        assert environments.action_mask.tolist() == [[True] * 3, [True, False, False]]  # row 1 was reset


def test_a_state_that_allows_nothing_is_an_error() -> None:
    kwargs = {"masked": True, "fault": "nothing allowed"}
    with (
        make_environments(COUNTING, 2, env_kwargs=kwargs) as environments,
        pytest.raises(ConfigurationError, match="allows no action at all"),
    ):
        environments.reset(seed=0)


class _MultiMasked(gymnasium.Env[Any, Any]):
    """A MultiDiscrete action whose mask is a tuple of arrays, as ``MultiDiscrete.sample`` takes it."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {"action_mask": (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8))}


def test_masks_of_several_choices_are_joined() -> None:
    with closing(SyncVectorEnv([_MultiMasked] * 2)) as vector:
        environments = Environments(vector, "multi")
        environments.reset(seed=0)
        assert environments.action_mask is not None
        assert environments.action_mask.tolist() == [[True, False, False, True, True]] * 2


@pytest.fixture
def vector_only() -> Iterator[str]:
    """An environment that exists only as a vector, and resets itself in the same step."""

    def make(num_envs: int, max_episode_steps: int = 5) -> VectorEnv[Any, Any, Any]:
        single = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=max_episode_steps)] * num_envs
        return SyncVectorEnv(single, autoreset_mode=AutoresetMode.SAME_STEP)

    gymnasium.register("VectorOnly-v0", vector_entry_point=make)
    yield "VectorOnly-v0"
    del gymnasium.registry["VectorOnly-v0"]


def test_an_environment_that_is_only_a_vector(vector_only: str) -> None:
    with make_environments(vector_only, 1) as environments:
        assert environments.autoreset_mode is AutoresetMode.SAME_STEP
    with pytest.raises(ConfigurationError, match="resets itself by"):
        make_environments(vector_only, 2, autoreset=AutoresetMode.DISABLED)


@pytest.mark.parametrize(
    ("env_id", "num_envs", "vector", "kwargs", "said"),
    [
        ("CartPol-v1", 1, "auto", {}, "CartPole-v1"),
        ("CartPole-v1", 0, "auto", {}, "at least one"),
        ("Acrobot-v1", 2, "entry_point", {}, "has no vector entry point"),
        ("CartPole-v1", 2, "entry_point", {"disable_env_checker": True}, "cannot make CartPole-v1"),
        (COUNTING, 2, "async", {"frobnicate": 1}, "cannot make .*Counting-v0: TypeError"),
        ("VectorOnly-v0", 2, "async", {}, "exists only as a vector environment: use --vector entry_point"),
    ],
)
def test_an_unknown_environment_or_an_unsuitable_form_is_a_configuration_error(
    vector_only: str, env_id: str, num_envs: int, vector: VectorChoice, kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_environments(env_id, num_envs, vector=vector, env_kwargs=kwargs)


def test_a_policy_for_other_spaces_is_refused() -> None:
    with make_environments("CartPole-v1", 2) as environments, make_environments("Acrobot-v1", 2) as others:
        fits = acting_signature(environments.leaves, environments.action)
        environments.check_signature(fits)
        with pytest.raises(ConfigurationError, match=r"does not fit Acrobot-v1: it was made for observations .*\[4\]"):
            others.check_signature(fits)
        with pytest.raises(ConfigurationError, match="made for actions"):
            others.check_signature(acting_signature(others.leaves, environments.action))
        environments.reset(seed=0)
        with pytest.raises(ConfigurationError, match="needs action masks"):
            environments.check_signature(acting_signature(environments.leaves, environments.action, masked=True))
