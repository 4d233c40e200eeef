"""The rank-sum test: its definition, its error rate and its power."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor.canary.rank_sum import EPISODES, ERROR_RATE, p_value, rank_sum_test

Draw = Callable[[np.random.Generator, int], np.ndarray]

EQUALLY_GOOD: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(100, 10, n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "mostly at the limit of 500": lambda rng, n: np.minimum(500, rng.normal(510, 30, n)).round(),
    "two outcomes": lambda rng, n: rng.binomial(1, 0.9, n).astype(float),
    "always the same": lambda _, n: np.full(n, 500.0),
}


def _alarms(rounds: int, candidate: Draw, baseline: Draw, episodes: int = EPISODES) -> int:
    rng = np.random.default_rng(20)
    verdicts = [
        rank_sum_test(candidate(rng, EPISODES).tolist(), baseline(rng, episodes).tolist()) for _ in range(rounds)
    ]
    assert None not in verdicts
    return sum(verdict.is_worse for verdict in verdicts if verdict is not None)


_few_values = st.integers(0, 5).map(float)


@settings(max_examples=100)
@given(st.lists(_few_values, min_size=1, max_size=5), st.lists(_few_values, min_size=1, max_size=6))
def test_p_is_the_share_of_assignments_with_as_low_a_rank_sum(candidate: list[float], baseline: list[float]) -> None:
    """Compare with the definition: count every assignment of the episodes."""
    values = candidate + baseline
    midranks = [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]
    sums = [sum(chosen) for chosen in itertools.combinations(midranks, len(candidate))]
    expected = sum(each <= sum(midranks[: len(candidate)]) for each in sums) / len(sums)
    assert p_value(np.array(candidate), np.array(baseline)) == pytest.approx(expected, rel=1e-12)


@given(st.permutations(range(45)), st.integers(EPISODES, 25))
def test_only_the_order_of_the_returns_counts(order: list[int], split: int) -> None:
    returns = np.array(order, float)
    stretched = np.exp(returns / 10)
    first, second = (rank_sum_test(x[:split].tolist(), x[split:].tolist()) for x in (returns, stretched))
    assert first is not None
    assert second is not None
    assert first.p == second.p


@pytest.mark.parametrize("kind", EQUALLY_GOOD)
def test_an_equally_good_version_is_seldom_taken_for_a_worse_one(kind: str) -> None:
    draw = EQUALLY_GOOD[kind]
    rounds = 300
    assert _alarms(rounds, draw, draw) <= ERROR_RATE * rounds + 5 * (ERROR_RATE * rounds) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [EPISODES, 180])
@pytest.mark.parametrize("kind", EQUALLY_GOOD)
def test_the_error_rate_is_what_is_stated(kind: str, episodes: int) -> None:
    draw = EQUALLY_GOOD[kind]
    rounds = 15_000 // episodes
    assert _alarms(rounds, draw, draw, episodes) <= ERROR_RATE * rounds + 3 * (ERROR_RATE * rounds) ** 0.5


@pytest.mark.parametrize("episodes", [EPISODES, 180])
def test_a_collapsed_policy_is_always_caught(episodes: int) -> None:
    def solved(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.minimum(500, rng.normal(480, 60, n)).round()

    def collapsed(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.integers(8, 11, n).astype(float)

    assert _alarms(100, collapsed, solved, episodes) == 100


@pytest.mark.parametrize(("episodes", "deviations", "caught"), [(20, 1.0, 0.74), (20, 1.5, 0.97), (180, 1.0, 0.95)])
def test_how_likely_a_worse_version_is_caught(episodes: int, deviations: float, caught: float) -> None:
    """The figures of docs/guides/canary.md: normal returns, worse by so many standard deviations."""
    rounds = 300 if episodes == EPISODES else 100
    alarms = _alarms(rounds, lambda rng, n: rng.normal(-deviations, 1, n), lambda rng, n: rng.normal(0, 1, n), episodes)
    assert alarms >= (caught - 0.05) * rounds


def test_a_better_version_is_adopted() -> None:
    verdict = rank_sum_test([500.0] * EPISODES, [9.0] * EPISODES)
    assert verdict is not None
    assert not verdict.is_worse
    assert verdict.p == 1.0


def test_a_worse_one_is_described() -> None:
    verdict = rank_sum_test([9.0] * EPISODES, [500.0] * 180)
    assert verdict is not None
    assert verdict.is_worse
    assert verdict.describe().startswith(
        "mean return 9 in 20 episodes, beside 500 in 180 of the version that acts (p = "
    )


@pytest.mark.parametrize(("candidates", "baselines"), [(EPISODES - 1, 1000), (1000, EPISODES - 1), (0, 0)])
def test_there_is_no_look_before_there_are_enough_episodes(candidates: int, baselines: int) -> None:
    assert rank_sum_test([0.0] * candidates, [1.0] * baselines) is None


def test_thousands_of_episodes_are_cut() -> None:
    verdict = rank_sum_test([0.0] * 5000, [1.0] * 5000)
    assert verdict is not None
    assert verdict.is_worse
    assert verdict.candidate_episodes < 100
