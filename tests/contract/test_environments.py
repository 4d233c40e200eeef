"""The contract of every form of a batch of environments: vector entry points, sync, async and EnvPool."""

import importlib.util
from collections.abc import Iterator
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.environments.vector_choice import VectorChoice
from tests.support.counting_environment import LENGTHS, Counting

COUNTING = "tests.support.counting_environment:Counting-v0"
NEEDS_ENVPOOL = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="needs the extra envpool")

WAYS = [pytest.param(way, marks=NEEDS_ENVPOOL if way == "envpool" else ()) for way in get_args(VectorChoice)]
# EnvPool has no environment of ours; with CartPole, below, it is held to the same.
WAYS_AND_MODES = [(way, mode) for way in ("entry_point", "sync", "async") for mode in AutoresetMode]


@pytest.fixture(autouse=True)
def _vector_forms() -> Iterator[None]:
    """The counting environment with a vector entry point, for each mode."""
    for mode in AutoresetMode:

        def make(num_envs: int, mode: AutoresetMode = mode, **kwargs: Any) -> SyncVectorEnv:
            return SyncVectorEnv([lambda: Counting(**kwargs)] * num_envs, autoreset_mode=mode)

        gymnasium.register(f"Counting{mode.value}-v0", vector_entry_point=make)
    yield
    for mode in AutoresetMode:
        del gymnasium.registry[f"Counting{mode.value}-v0"]


def _make(way: VectorChoice, mode: AutoresetMode, num_envs: int, **kwargs: Any) -> Environments:
    env_id = f"Counting{mode.value}-v0" if way == "entry_point" else COUNTING
    return make_environments(env_id, num_envs, vector=way, env_kwargs=kwargs, autoreset=mode)


def _act(environments: Environments) -> np.ndarray:
    return np.zeros(environments.num_envs, np.int64)


@pytest.mark.parametrize(("way", "mode"), WAYS_AND_MODES)
def test_every_mode_gives_the_true_final_observation(way: VectorChoice, mode: AutoresetMode) -> None:
    with _make(way, mode, 3) as environments:
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


@pytest.mark.parametrize(("way", "mode"), WAYS_AND_MODES)
def test_nested_observations_are_flat_leaves(way: VectorChoice, mode: AutoresetMode) -> None:
    with _make(way, mode, 2, nested=True) as environments:
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


@pytest.mark.parametrize(("way", "mode"), WAYS_AND_MODES)
def test_masks_are_those_of_the_observation_to_act_on(way: VectorChoice, mode: AutoresetMode) -> None:
    with _make(way, mode, 3, masked=True) as environments:
        (now,) = environments.reset(seed=0)
        assert environments.supports_masks
        ended = np.zeros(3, np.bool_)
        for _ in range(20):
            mask = environments.action_mask
            assert mask is not None
            expected = np.stack([np.ones(3), now[:, 1] % 2, np.zeros(3)], axis=1).astype(np.bool_)
            if mode is AutoresetMode.NEXT_STEP:
                expected |= ended[:, None]  # their next action is ignored
            np.testing.assert_array_equal(mask, expected)
            (now,), _, terminated, truncated, _ = environments.step(_act(environments))
            ended = terminated | truncated


def _after(observation: np.ndarray, action: int) -> np.ndarray:
    """Return the next observation of Gymnasium's own CartPole."""
    cartpole = CartPoleEnv()
    cartpole.reset()
    cartpole.state = tuple(map(float, observation))
    after, *_ = cartpole.step(action)
    return after


@pytest.mark.parametrize("way", WAYS)
def test_no_observation_of_an_episode_is_lost(way: VectorChoice) -> None:
    limit, generator = 12, np.random.default_rng(0)
    kwargs = {"max_episode_steps": limit}
    with make_environments("CartPole-v1", 4, vector=way, env_kwargs=kwargs) as environments:
        assert [(leaf.path, leaf.shape) for leaf in environments.leaves] == [((), (4,))]
        (before,) = environments.reset(seed=3)
        age, ends, cut_off = np.zeros(4, int), 0, 0
        for _ in range(100):
            was, actions = np.array(before), generator.integers(0, 2, 4)
            (now,), reward, terminated, truncated, finals = environments.step(actions)
            assert (now.shape, now.dtype) == ((4, 4), np.float32)
            assert reward.shape == (4,)
            assert np.issubdtype(reward.dtype, np.floating)
            assert terminated.dtype == truncated.dtype == np.bool_
            resets = age < 0
            age += 1
            lasts = np.array(now)
            if finals is not None:
                lasts[finals.rows] = finals.observation[0]
            for row in range(4):
                if resets[row]:
                    assert not terminated[row]
                    assert not truncated[row]
                    assert np.abs(now[row]).max() <= 0.05
                else:
                    np.testing.assert_allclose(lasts[row], _after(was[row], int(actions[row])), atol=1e-5)
                    assert reward[row] == 1
                    fell = bool(np.abs(lasts[row][[0, 2]])[0] > 2.4 or np.abs(lasts[row][2]) > 12 * np.pi / 180)
                    assert (terminated[row] or truncated[row]) == (fell or age[row] == limit)
                    assert terminated[row] or truncated[row] or not fell
            ended = terminated | truncated
            if environments.autoreset_mode is not AutoresetMode.NEXT_STEP:
                assert (np.abs(now[ended]) <= 0.05).all()
            age[ended] = -1 if environments.autoreset_mode is AutoresetMode.NEXT_STEP else 0
            ends, cut_off = ends + ended.sum(), cut_off + truncated.sum()
            before = now
        assert ends > cut_off > 0


@pytest.mark.parametrize("way", WAYS)
def test_one_seed_stands_for_the_whole_batch(way: VectorChoice) -> None:
    with make_environments("CartPole-v1", 4, vector=way) as environments:
        first = np.array(environments.reset(seed=7)[0])
        assert len(np.unique(first, axis=0)) == 4
        environments.step(_act(environments))
        np.testing.assert_array_equal(environments.reset(seed=7)[0], first)
        assert not np.array_equal(environments.reset(seed=8)[0], first)
        assert not np.array_equal(environments.reset()[0], first)
        environments.reset(seed=2**32 - 1)


@pytest.mark.parametrize("way", WAYS)
def test_closing_twice_is_closing_once(way: VectorChoice) -> None:
    environments = make_environments("CartPole-v1", 2, vector=way)
    environments.reset(seed=0)
    environments.close()
    environments.close()
