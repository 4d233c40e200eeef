"""Times of a training: what starts them, and what they are after a resume."""

import time

from learner.training.training_clock import TrainingClock


def test_training_time_begins_with_the_first_environment_step() -> None:
    clock = TrainingClock()
    assert clock.train_s == 0
    clock.first_step_at(time.time())
    first = clock.train_s
    clock.first_step_at(time.time() + 1000)
    assert clock.train_s >= first


def test_a_step_from_before_this_process_does_not_count_longer_than_the_process() -> None:
    clock = TrainingClock()
    clock.first_step_at(time.time() - 1000)
    assert clock.train_s <= clock.session_s


def test_a_clock_that_is_ahead_gives_no_negative_time() -> None:
    clock = TrainingClock()
    clock.first_step_at(time.time() + 1000)
    assert clock.train_s >= 0


def test_a_resumed_clock_goes_on_without_the_time_in_between() -> None:
    clock = TrainingClock()
    clock.restore({"train_s": 10.0, "wall_s": 20.0})
    assert clock.train_s == 10.0
    assert clock.wall_s >= 20.0
    assert clock.session_s < clock.wall_s
    clock.first_step_at(time.time())
    assert clock.train_s >= 10.0
