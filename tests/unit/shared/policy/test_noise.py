"""Noise is a function of its counter and has the distribution of the policy contract."""

from collections.abc import Callable

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shared.policy.noise import NoiseStream, gumbel, logistic
from shared.policy.spaces import action_spec

SPACES = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 4]),
    "multi_binary": spaces.MultiBinary(5),
    "box": spaces.Box(-1, 1, (2, 3)),
}

# Mean, and the probability of a negative number, of one draw: Gumbel (Euler's constant, exp(-1)), logistic, normal.
EXPECTED = {kind: (0.5772, np.exp(-1)) if "discrete" in kind else (0.0, 0.5) for kind in SPACES}


def stream(kind: str, batch_size: int = 4, seed: int = 1) -> NoiseStream:
    return NoiseStream(action_spec(SPACES[kind]), batch_size, seed)


@pytest.mark.parametrize("kind", SPACES)
def test_a_step_has_one_row_of_float32_for_each_environment(kind: str) -> None:
    noise = stream(kind).at(0)
    assert noise.shape == (4, *action_spec(SPACES[kind]).noise_shape)
    assert noise.dtype == np.float32


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.integers(0, 2**64 - 1))
def test_noise_of_a_step_does_not_depend_on_the_order_of_calls(offsets: list[int], seed: int) -> None:
    one = stream("discrete", 2, seed)
    for offset in offsets:
        np.testing.assert_array_equal(one.at(offset), stream("discrete", 2, seed).at(offset))


@pytest.mark.parametrize("kind", SPACES)
def test_steps_and_seeds_have_different_noise(kind: str) -> None:
    rows = [stream(kind).at(offset) for offset in (0, 1, 63, 64, 65, 128)] + [stream(kind, seed=2).at(0)]
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert not np.array_equal(a, b)


@pytest.mark.parametrize("kind", SPACES)
def test_noise_stays_as_it_was_when_later_steps_are_drawn(kind: str) -> None:
    one = stream(kind)
    first = one.at(0)
    kept = first.copy()
    for offset in range(0, 1000, 10):
        one.at(offset)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("kind", SPACES)
def test_noise_is_finite_and_has_the_distribution_of_its_kind(kind: str) -> None:
    one = stream(kind, batch_size=2000)
    draws = np.concatenate([one.at(offset).ravel() for offset in range(64)])
    mean, negative = EXPECTED[kind]
    assert np.isfinite(draws).all()
    assert draws.mean() == pytest.approx(mean, abs=0.02)
    assert (draws < 0).mean() == pytest.approx(negative, abs=0.01)


def test_a_block_of_64_steps_is_drawn_from_its_own_counter() -> None:
    """The numbers of a seed and a step are part of the format of rollouts: numpy's own generator gives the same."""
    for kind, offset in (("box", 0), ("box", 130), ("discrete", 65), ("multi_binary", 65)):
        block, row = divmod(offset, 64)
        generator = np.random.Generator(np.random.Philox(key=7, counter=[0, 0, block, 0]))
        shape = (64, 4, *action_spec(SPACES[kind]).noise_shape)
        if kind == "box":
            expected = generator.standard_normal(shape, np.float32)[row]
        else:
            uniform = generator.random(shape, np.float32)[row].astype(np.float64)
            expected = -np.log(-np.log(uniform)) if kind == "discrete" else np.log(uniform / (1 - uniform))
        np.testing.assert_allclose(stream(kind, seed=7).at(offset), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", [gumbel, logistic])
def test_the_ends_of_the_uniform_draw_are_finite(transform: Callable[[np.ndarray], np.ndarray]) -> None:
    ends = np.array([0.0, 1 - 2**-24], np.float32)  # the smallest and the largest that a float32 generator gives
    assert np.isfinite(transform(ends)).all()
    assert transform(ends).dtype == np.float32
    assert ends.tolist() == [0.0, 1 - 2**-24], "the argument stays as it is"
    lowest = -np.log(-np.log(1e-12)) if transform is gumbel else np.log(1e-12)
    np.testing.assert_allclose(transform(ends)[0], lowest, rtol=1e-6)
