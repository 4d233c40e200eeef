"""Statistics of windows: comparison with neighbours, control spread, bootstrap intervals, and missed targets."""

import numpy as np
import pytest

from scripts.benchmarks.common.result import Result
from scripts.benchmarks.reload.step_times import Comparison, results_of, with_control_spread
from scripts.benchmarks.reload.windows import (
    Interval,
    Round,
    Window,
    adopting_over_control,
    bootstrap,
    control_over_control,
    interquartile_mean,
    steps_per_s,
)


def _round(rates: list[float], p999_us: float = 100.0) -> Round:
    return Round([Window({"p99.9": p999_us}, rate, 0) for rate in rates], [])


def test_each_window_is_compared_with_its_neighbours() -> None:
    """A drift of the speed cancels out; a difference between the two kinds of windows does not."""
    one = _round([rate * (1.0 if k % 2 == 0 else 0.9) for k, rate in enumerate((100.0, 110.0, 120.0, 130.0, 140.0))])
    assert adopting_over_control([one, one], steps_per_s) == pytest.approx([0.9] * 4)
    assert control_over_control([one, one], steps_per_s) == pytest.approx([1.0] * 2)


@pytest.mark.parametrize(("value", "status"), [(1.2, "missed by 0.1"), (1.0, "reached")])
@pytest.mark.parametrize("control", [[1.25] * 5 + [0.99, 1.0, 1.01] * 9, [1.25]])
def test_control_spread_is_printed_beside_the_status_and_excuses_no_miss(
    value: float, status: str, control: list[float]
) -> None:
    result = with_control_spread(Result.of("step time", [value], "", "how", at_most=1.1), control)
    assert result.reached is (value <= 1.1)
    assert result.status.startswith(f"{status}; control medians ")
    assert "to 1.250" in result.status
    assert "to 1.250" in result.how


def test_bootstrap_is_seeded_and_covers_the_true_mean() -> None:
    """The width follows the standard error, and 95% of the intervals hold the mean."""
    samples = np.random.default_rng(1).normal(3.0, 2.0, (200, 100))
    intervals = [bootstrap(sample, np.mean, seed=k) for k, sample in enumerate(samples)]
    assert 0.88 < np.mean([each.low <= 3.0 <= each.high for each in intervals]) < 0.99
    assert np.mean([each.high - each.low for each in intervals]) == pytest.approx(2 * 1.96 * 2.0 / 10, rel=0.05)
    assert bootstrap(samples[0]) == bootstrap(samples[0]) != bootstrap(samples[0], seed=1)


def test_interquartile_mean_ignores_a_quarter_of_the_windows_at_each_end() -> None:
    values = np.array([[1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1e9], [7.0] * 8])
    assert interquartile_mean(values) == pytest.approx([3.5, 7.0])


@pytest.mark.parametrize(
    ("interval", "resolved"),
    [((2.0, 1.5, 2.5), True), ((-2.0, -2.5, -1.5), True), ((1.0, 0.1, 1.9), False), ((1.0, -0.1, 0.5), False)],
)
def test_a_difference_is_resolved_when_its_interval_is_narrower_and_excludes_zero(
    interval: tuple[float, float, float], resolved: bool
) -> None:
    assert Interval(*interval).is_resolved is resolved


def test_prefetching_is_compared_in_pairs_of_windows() -> None:
    """Noise that both windows of a pair share does not widen the interval of the difference."""
    shared = np.random.default_rng(0).normal(0.0, 20.0, 40)
    on = [_round([100.0, 99.0 + noise, 100.0], 100.0 + noise) for noise in shared]
    off = [_round([100.0, 97.0 + noise, 100.0], 150.0 + noise) for noise in shared]
    results = {result.name: result for result in results_of(Comparison(on, off), 40.0)}
    lost = results["steps lost at 40 adoptions/s, prefetcher off less on"]
    assert (lost.value, lost.min, lost.max) == pytest.approx((2.0, 2.0, 2.0))
    assert lost.note == "95% interval, resolved"
    time_us = results["step time p99.9 at 40 adoptions/s, prefetcher off less on"]
    assert (time_us.value, time_us.unit) == (pytest.approx(50.0), "us")
    single = results["steps lost at 40 adoptions/s, prefetcher on"]
    assert single.max - single.min > 5.0
    same = results_of(Comparison(on, on), 10.0)
    assert [each.note for each in same if "off less on" in each.name] == ["95% interval, not resolved"] * 2
