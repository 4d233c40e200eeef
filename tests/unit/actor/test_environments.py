from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from actor.environment_creation import make_environments
from actor.environments import Environments
from shared.errors import ConfigurationError
from shared.policy_signature import acting_signature
from tests.unit.actor.counting_environment import LENGTHS

COUNTING = "tests.unit.actor.counting_environment:Counting-v0"
MODES = list(AutoresetMode)


def _act(environments: Environments) -> np.ndarray:
    return np.zeros(environments.num_envs, np.int64)


def test_the_vector_entry_point_is_used_where_there_is_one() -> None:
    with make_environments("CartPole-v1", 8) as environments:
        assert not isinstance(environments.vector, SyncVectorEnv)
        assert environments.autoreset_mode is AutoresetMode.NEXT_STEP
        (leaf,) = environments.reset(seed=1)
        assert leaf.shape == (8, 4)


def test_a_mode_that_the_entry_point_lacks_is_had_from_single_environments() -> None:
    with make_environments("CartPole-v1", 3, autoreset=AutoresetMode.SAME_STEP) as environments:
        assert isinstance(environments.vector, SyncVectorEnv)
        assert environments.autoreset_mode is AutoresetMode.SAME_STEP


def test_keyword_arguments_that_only_the_single_form_takes() -> None:
    with make_environments("CartPole-v1", 2, env_kwargs={"disable_env_checker": True}) as environments:
        assert isinstance(environments.vector, SyncVectorEnv)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_true_final_observation(mode: AutoresetMode) -> None:
    with make_environments(COUNTING, 3, autoreset=mode) as environments:
        (before,) = environments.reset(seed=4)  # the rows begin with episodes 4, 5 and 6: lengths 3, 1, 4
        np.testing.assert_array_equal(before, [[4, 0], [5, 0], [6, 0]])
        for step in range(1, 30):
            was = np.array(before)
            (now,), reward, terminated, truncated, finals = environments.step(_act(environments))
            ended = terminated | truncated
            lengths = np.take(LENGTHS, was[:, 0].astype(int), mode="wrap")
            if mode is AutoresetMode.NEXT_STEP:
                assert finals is None
                resets = was[:, 1] == lengths
                np.testing.assert_array_equal(ended, ~resets & (was[:, 1] + 1 == lengths))
                np.testing.assert_array_equal(now[resets], was[resets] * [1, 0] + [1, 0])
                np.testing.assert_array_equal(reward, np.where(resets, 0, was[:, 1] + 1))
            else:
                np.testing.assert_array_equal(reward, was[:, 1] + 1, err_msg=str(step))
                np.testing.assert_array_equal(ended, reward == lengths)
                np.testing.assert_array_equal(now[ended], was[ended] * [1, 0] + [1, 0])
                assert (finals is not None) == ended.any()
                if finals is not None:
                    np.testing.assert_array_equal(finals.rows, np.flatnonzero(ended))
                    np.testing.assert_array_equal(finals.observation[0], was[ended] + [0, 1])
            np.testing.assert_array_equal(truncated, ended & (was[:, 0] % 2 == 0))
            before = now


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_are_flat_leaves(mode: AutoresetMode) -> None:
    with make_environments(COUNTING, 2, env_kwargs={"nested": True}, autoreset=mode) as environments:
        assert [leaf.path for leaf in environments.leaves] == [("clock", 0), ("clock", 1), ("parity",)]
        environments.reset(seed=0)
        for _ in range(9):
            (steps, clock, parity), _, terminated, truncated, finals = environments.step(_act(environments))
            assert (steps.dtype, clock.dtype, parity.dtype) == (np.int64, np.float32, np.int64)
            np.testing.assert_array_equal(clock[:, 1], steps)
            np.testing.assert_array_equal(parity, steps % 2)
            if finals is not None:
                ended = terminated | truncated
                assert [leaf.shape[0] for leaf in finals.observation] == [ended.sum()] * 3
                np.testing.assert_array_equal(finals.observation[1][:, 1], finals.observation[0])


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_those_of_the_observation_to_act_on(mode: AutoresetMode) -> None:
    with make_environments(COUNTING, 3, env_kwargs={"masked": True}, autoreset=mode) as environments:
        (now,) = environments.reset(seed=0)
        assert environments.supports_masks
        ended = np.zeros(3, np.bool_)
        for _ in range(20):
            mask = environments.action_mask
            assert mask is not None
            expected = np.stack([np.ones(3), now[:, 1] % 2, np.zeros(3)], axis=1).astype(np.bool_)
            if mode is AutoresetMode.NEXT_STEP:
                expected |= ended[:, None]  # whatever is chosen there is ignored
            np.testing.assert_array_equal(mask, expected)
            (now,), _, terminated, truncated, _ = environments.step(_act(environments))
            ended = terminated | truncated


def test_taxi_is_never_asked_for_a_masked_action() -> None:
    generator = np.random.default_rng(0)
    with make_environments("Taxi-v4", 4) as environments:
        environments.reset(seed=3)
        for _ in range(300):
            assert environments.action_mask is not None
            assert environments.action_mask.shape == (4, 6)
            action = np.array([generator.choice(np.flatnonzero(row)) for row in environments.action_mask])
            _, reward, *_ = environments.step(action)
            assert reward.min() > -10  # the price of an illegal pick-up or drop-off


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
        assert environments.action_mask.tolist() == [[True] * 3, [True, False, False]]  # row 1 began again


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
    with pytest.raises(ConfigurationError, match="exists only as a vector"):
        make_environments(vector_only, 2, autoreset=AutoresetMode.DISABLED)


def test_one_seed_stands_for_the_whole_batch() -> None:
    with make_environments("CartPole-v1", 4) as environments:
        first = [np.array(leaf) for leaf in environments.reset(seed=7)]
        environments.step(_act(environments))
        np.testing.assert_array_equal(environments.reset(seed=7)[0], first[0])
        assert not np.array_equal(environments.reset(seed=8)[0], first[0])


@pytest.mark.parametrize(
    ("env_id", "num_envs", "said"), [("CartPol-v1", 1, "CartPole-v1"), ("CartPole-v1", 0, "at least one")]
)
def test_what_cannot_be_made_is_a_configuration_error(env_id: str, num_envs: int, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_environments(env_id, num_envs)


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
