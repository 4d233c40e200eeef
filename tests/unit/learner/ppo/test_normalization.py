"""Running statistics against numpy's over everything at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ppo.normalization import ReturnScale, RunningMoments


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6), offset=st.floats(-1e4, 1e4))
def test_moments_are_those_of_all_rows(sizes: list[int], offset: float) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [rng.normal(offset, 2.0, (size, 3)) for size in sizes]
    moments = RunningMoments(3)
    for part in parts:
        moments.update(part)
    rows = np.concatenate(parts)
    assert moments.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-9)
        np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-6, atol=1e-9)


def test_what_never_varied_is_left_out_rather_than_blown_up() -> None:
    moments = RunningMoments(2)
    moments.update(np.array([[3.0, 1.0], [3.0, 5.0]], np.float32))
    np.testing.assert_allclose(moments.inverse_std, [0.0, 0.5])


def test_moments_go_on_from_a_saved_state() -> None:
    rng = np.random.default_rng(0)
    one, other = RunningMoments(2), RunningMoments(2)
    one.update(rng.normal(size=(10, 2)))
    other.load_state_dict(one.state_dict())
    rows = rng.normal(size=(7, 2))
    one.update(rows)
    other.update(rows)
    assert (one.mean == other.mean).all()
    assert (one.variance == other.variance).all()


def test_the_scale_of_returns_is_their_root_mean_square_and_forgets() -> None:
    scale = ReturnScale(slowest_rate=0.5)
    scale.update(np.array([3.0, -3.0], np.float32))
    assert scale.scale == pytest.approx(3.0)
    scale.update(np.empty(0, np.float32))
    assert scale.scale == pytest.approx(3.0)
    for _ in range(60):
        scale.update(np.full(4, 100.0, np.float32))
    assert scale.scale == pytest.approx(100.0)
    scale.update(np.zeros(4, np.float32))
    again = ReturnScale(slowest_rate=0.5)
    again.load_state_dict(scale.state_dict())
    assert again.scale == scale.scale


def test_rewards_that_are_all_zero_leave_a_scale_to_divide_by() -> None:
    scale = ReturnScale()
    scale.update(np.zeros(4, np.float32))
    assert scale.scale > 0


def _outlier(returns: np.ndarray) -> np.ndarray:
    batch = returns.copy()
    batch[:16] = 1e6  # one reward, seen from the steps before it
    return batch


def test_one_outlier_does_not_double_the_scale_and_is_forgotten() -> None:
    scale, returns = ReturnScale(), np.full(512, 50.0, np.float32)
    for _ in range(200):
        scale.update(returns)
    scale.update(_outlier(returns))
    assert 50.0 < scale.scale < 1.42 * 50.0
    for _ in range(70):
        scale.update(returns)
    assert scale.scale == pytest.approx(50.0, rel=0.25)


def test_an_outlier_among_the_first_targets_is_forgotten_too() -> None:
    scale, returns = ReturnScale(), np.full(512, 50.0, np.float32)
    scale.update(_outlier(returns))
    assert scale.scale > 1e5  # there is nothing to compare it with
    scale.update(returns)
    assert scale.scale < 3.01 * 50.0
    for _ in range(200):
        scale.update(returns)
    assert scale.scale == pytest.approx(50.0, rel=0.25)


def test_the_scale_follows_rewards_that_begin_late() -> None:
    scale = ReturnScale()
    for _ in range(200):
        scale.update(np.zeros(4, np.float32))
    for _ in range(300):
        scale.update(np.full(4, 1000.0, np.float32))
    assert scale.scale == pytest.approx(1000.0, rel=0.1)
