"""The window that decides whether a training has solved its environment."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.training.training_statistics import WINDOW_EPISODES, EpisodeWindow, Interval, Schedule, TrainingClock
from shared.rollouts.rollout import EpisodeEnds

_returns = st.lists(st.floats(-1e6, 1e6), max_size=3 * WINDOW_EPISODES)


def _filled(returns: list[float]) -> EpisodeWindow:
    window = EpisodeWindow()
    window.add(EpisodeEnds(returns, [1] * len(returns), [0] * len(returns)))
    return window


def test_only_a_full_window_proves_something() -> None:
    assert EpisodeWindow().mean_return is None
    assert not EpisodeWindow().solved(-1e9)
    window = _filled([500.0] * (WINDOW_EPISODES - 1))
    assert not window.solved(475)
    window.add(EpisodeEnds([500.0], [500], [3]))
    assert window.solved(475)
    assert _filled([0.0] * 50 + [500.0] * WINDOW_EPISODES).mean_return == 500


@given(_returns)
def test_a_window_survives_a_checkpoint(returns: list[float]) -> None:
    window = _filled(returns)
    restored = EpisodeWindow.from_state(window.state())
    assert restored.state() == window.state()
    assert restored.finished == len(returns)


def test_an_interval_of_updates() -> None:
    schedule = Schedule(Interval(3))
    schedule.happened(0, 0.0)
    assert [update for update in range(6) if schedule.is_due(update, now_s=1e9)] == [3, 4, 5]
    schedule.happened(4, 0.0)  # later than it was due
    assert [update for update in range(4, 9) if schedule.is_due(update, now_s=1e9)] == [7, 8]


def test_seconds_may_pass_first() -> None:
    schedule = Schedule(Interval(100, 2.0))
    schedule.happened(10, 50.0)
    assert not schedule.is_due(11, 51.9)
    assert schedule.is_due(11, 52.0)
    assert schedule.is_due(110, 50.0)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_nothing_is_due_without_another_update(seconds: float | None) -> None:
    schedule = Schedule(Interval(1, seconds))
    schedule.happened(5, 0.0)
    assert schedule.is_current(5)
    assert not schedule.is_due(5, 1e9)
    assert not schedule.is_current(6)
    assert schedule.is_due(6, 0.0)


def test_the_first_time_is_due_after_a_number_of_updates() -> None:
    schedule = Schedule(Interval(2, 1.0))
    assert not schedule.is_current(0)
    assert not schedule.is_due(1, 1e9)
    assert schedule.is_due(2, 0.0)


def test_training_time_begins_with_the_first_environment_step() -> None:
    clock = TrainingClock()
    assert clock.train_s == 0
    clock.first_step_at(time.time())
    first = clock.train_s
    clock.first_step_at(time.time() + 1000)
    assert clock.train_s >= first


@pytest.mark.parametrize("offset_s", [-1000, 1000])
def test_training_time_is_never_negative_and_never_longer_than_the_process(offset_s: float) -> None:
    clock = TrainingClock()
    clock.first_step_at(time.time() + offset_s)
    assert 0 <= clock.train_s <= clock.session_s


def test_a_resumed_clock_goes_on_without_the_time_in_between() -> None:
    clock = TrainingClock()
    clock.restore({"train_s": 10.0, "wall_s": 20.0})
    assert clock.train_s == 10.0
    assert clock.wall_s >= 20.0
    assert clock.session_s < clock.wall_s
    clock.first_step_at(time.time())
    assert clock.train_s >= 10.0
