import pytest

from rl_hotswap.launcher.restarts import EnvironmentFailures, count_deaths_in_a_row, restart_delay_s

_HOT = "fix the environment: Motor-v0 raised RuntimeError: 91.5 degrees, in step {}"


def test_delays_double_and_stay_bounded() -> None:
    assert [restart_delay_s(deaths) for deaths in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert restart_delay_s(10**6) == 10.0


@pytest.mark.parametrize(
    ("lived_s", "made_progress", "expected"), [(1.0, False, 4), (29.9, False, 4), (30.0, False, 1), (1.0, True, 1)]
)
def test_a_long_life_or_progress_begins_a_new_row_of_deaths(lived_s: float, made_progress: bool, expected: int) -> None:
    assert count_deaths_in_a_row(3, lived_s, made_progress=made_progress) == expected


def test_identical_failures_of_an_environment_count_whatever_their_numbers() -> None:
    failures = EnvironmentFailures()
    for step in (7, 1200, 3):
        failures = failures.after(_HOT.format(step), lived_s=2.0)
    assert failures == EnvironmentFailures(_HOT.format(3), 3)


@pytest.mark.parametrize(
    ("sentence", "lived_s"), [("Motor-v0 raised KeyError: 'speed', in step 3", 2.0), (_HOT.format(3), 600.0)]
)
def test_another_failure_or_a_long_life_begins_a_new_row(sentence: str, lived_s: float) -> None:
    failures = EnvironmentFailures(_HOT.format(3), 4).after(sentence, lived_s)
    assert failures == EnvironmentFailures(sentence, 1)
