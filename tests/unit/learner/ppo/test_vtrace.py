"""V-trace against a slow transcription of the paper's equation, over generated episode boundaries."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ppo.vtrace import Steps, vtrace


@st.composite
def trajectories(draw: st.DrawFn, log_rho: float = 1.5) -> dict[str, Any]:
    length, width = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    next_step = draw(st.booleans())
    ending = draw(st.sampled_from([0.0, 0.2, 0.6]))
    shape = (length, width)
    terminated, truncated, valid = np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
    resets = rng.random(width) < ending if next_step else np.zeros(width, bool)
    for t in range(length):
        valid[t] = ~resets
        terminated[t] = (rng.random(width) < ending) & valid[t]
        truncated[t] = (rng.random(width) < ending) & valid[t]
        resets = terminated[t] | truncated[t] if next_step else resets
    value = rng.normal(size=(length + 1, width)).astype(np.float32)
    next_value = value[1:].copy()
    if not next_step:
        ended = terminated | truncated
        next_value[ended] = rng.normal(size=int(ended.sum()))
    return {
        "log_rho": (rng.normal(size=shape) * log_rho).astype(np.float32),
        "reward": rng.normal(size=shape).astype(np.float32),
        "value": value[:-1],
        "next_value": next_value,
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }


def slow_target(x: dict[str, Any], s: int, b: int, *, gamma: float, lam: float, max_rho: float, max_c: float) -> float:
    """Eq. 1, v_s = V(x_s) + sum_t gamma^(t-s) (prod c_i) delta_t, up to the end of the episode or of the rollout."""
    v, factor = float(x["value"][s, b]), 1.0
    for t in range(s, len(x["reward"])):
        if not x["valid"][t, b]:
            break
        rho = float(np.exp(x["log_rho"][t, b]))
        bootstrap = 0.0 if x["terminated"][t, b] else gamma * float(x["next_value"][t, b])
        v += factor * min(max_rho, rho) * (float(x["reward"][t, b]) + bootstrap - float(x["value"][t, b]))
        factor *= gamma * lam * min(max_c, rho)
        if x["terminated"][t, b] or x["truncated"][t, b]:
            break
    return v


unit = st.floats(0, 1)


@settings(deadline=None)
@given(x=trajectories(), gamma=unit, lam=unit, max_rho=st.floats(0.5, 3), max_c=st.floats(0.5, 3))
def test_targets_equal_the_papers_sum_and_advantages_follow_section_4_2(
    x: dict[str, Any], gamma: float, lam: float, max_rho: float, max_c: float
) -> None:
    target, advantage = vtrace(Steps(**x), gamma=gamma, trace_lambda=lam, max_rho=max_rho, max_c=max_c)
    length, width = x["reward"].shape
    rates = {"gamma": gamma, "lam": lam, "max_rho": max_rho, "max_c": max_c}
    expected_target = [[slow_target(x, s, b, **rates) for b in range(width)] for s in range(length)]
    np.testing.assert_allclose(target, expected_target, rtol=1e-3, atol=1e-3)
    for t in range(length):
        for b in range(width):
            ended = x["terminated"][t, b] or x["truncated"][t, b]
            later = 0.0 if ended or t + 1 == length else target[t + 1, b] - x["value"][t + 1, b]
            bootstrap = 0.0 if x["terminated"][t, b] else gamma * (x["next_value"][t, b] + lam * later)
            expected = x["reward"][t, b] + bootstrap - x["value"][t, b] if x["valid"][t, b] else 0.0
            assert advantage[t, b] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@settings(deadline=None)
@given(x=trajectories(log_rho=0.0), gamma=unit, lam=unit)
def test_without_lag_the_advantage_is_generalised_advantage_estimation(
    x: dict[str, Any], gamma: float, lam: float
) -> None:
    target, advantage = vtrace(Steps(**x), gamma=gamma, trace_lambda=lam)
    gae = np.zeros(x["reward"].shape[1])
    for t in reversed(range(len(x["reward"]))):
        delta = x["reward"][t] + gamma * ~x["terminated"][t] * x["next_value"][t] - x["value"][t]
        gae = np.where(x["valid"][t], delta + gamma * lam * ~(x["terminated"][t] | x["truncated"][t]) * gae, 0.0)
        np.testing.assert_allclose(advantage[t], gae, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(target, x["value"] + advantage, rtol=1e-4, atol=1e-4)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    flags = np.array([[True, False]])
    x = {"reward": 1.0, "value": 0.0, "next_value": 10.0, "log_rho": 0.0}
    arrays = {name: np.full((1, 2), number, np.float32) for name, number in x.items()}
    steps = Steps(**arrays, terminated=flags, truncated=~flags, valid=flags | True)
    target = vtrace(steps, gamma=0.5, trace_lambda=0.9).target
    np.testing.assert_array_equal(target, [[1.0, 6.0]])


@settings(deadline=None)
@given(x=trajectories(), noise=st.floats(-100, 100, width=32))
def test_the_contents_of_an_autoreset_step_change_nothing(x: dict[str, Any], noise: float) -> None:
    clean = vtrace(Steps(**x), gamma=0.9, trace_lambda=0.8)
    for name in ("reward", "log_rho"):
        x[name][~x["valid"]] = noise
    x["next_value"][~x["valid"]] = noise
    for found, expected in zip(vtrace(Steps(**x), gamma=0.9, trace_lambda=0.8), clean, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_both_ways_of_resetting_give_an_episode_the_same_targets() -> None:
    """One environment, an episode truncated at step 1: next-step autoreset spends a step on it, same-step does not."""
    reward, value = np.array([1, 2, 3, 4], np.float32), np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    final_value = np.float32(7.0)

    def targets(gap: bool) -> np.ndarray:
        def column(steps: np.ndarray, filler: float) -> np.ndarray:
            return np.insert(steps, 2, filler)[:, None] if gap else steps[:, None]

        values = column(value, final_value)
        next_value = values[1:].copy()
        next_value[1] = final_value
        truncated = column(np.array([False, True, False, False]), False)
        steps = Steps(
            log_rho=np.zeros_like(next_value),
            reward=column(reward, 0),
            value=values[:-1],
            next_value=next_value,
            terminated=np.zeros_like(truncated),
            truncated=truncated,
            valid=column(np.ones(4, bool), False),
        )
        found = vtrace(steps, gamma=0.9, trace_lambda=0.8).target[:, 0]
        return np.delete(found, 2) if gap else found

    np.testing.assert_allclose(targets(gap=True), targets(gap=False), rtol=1e-6)


def test_extreme_importance_weights_do_not_overflow() -> None:
    one = np.ones((1, 1), np.float32)
    no = np.zeros((1, 1), bool)
    for log_rho in (1e4, -1e8):
        trace = vtrace(Steps(one * log_rho, one, one, one, no, no, ~no), gamma=0.9, trace_lambda=0.9)
        assert np.isfinite(trace).all()


def test_arrays_of_different_shapes_are_refused() -> None:
    one, no = np.ones((2, 1), np.float32), np.zeros((2, 1), bool)
    with pytest.raises(ValueError, match=r"one shape \[T, B\]"):
        vtrace(Steps(one, one, one, np.ones((3, 1), np.float32), no, no, ~no), gamma=0.9, trace_lambda=0.9)
