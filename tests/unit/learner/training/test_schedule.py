"""How often something is due: pure decisions over a clock that the tests set."""

import pytest

from learner.training.schedule import Schedule


def test_updates_decide() -> None:
    cadence = Schedule(3, None)
    cadence.happened(0, 0.0)
    assert [update for update in range(6) if cadence.is_due(update, now_s=1e9)] == [3, 4, 5]
    cadence.happened(4, 0.0)  # later than it was due
    assert [update for update in range(4, 9) if cadence.is_due(update, now_s=1e9)] == [7, 8]


def test_seconds_decide_where_they_come_first() -> None:
    cadence = Schedule(100, 2.0)
    cadence.happened(10, 50.0)
    assert not cadence.is_due(11, 51.9)
    assert cadence.is_due(11, 52.0)
    assert cadence.is_due(110, 50.0)


@pytest.mark.parametrize("every_s", [None, 1.0])
def test_nothing_is_due_without_another_update(every_s: float | None) -> None:
    cadence = Schedule(1, every_s)
    cadence.happened(5, 0.0)
    assert cadence.is_current(5)
    assert not cadence.is_due(5, 1e9)
    assert not cadence.is_current(6)
    assert cadence.is_due(6, 0.0)


def test_what_never_happened_waits_for_its_updates() -> None:
    cadence = Schedule(2, 1.0)
    assert not cadence.is_current(0)
    assert not cadence.is_due(1, 1e9)
    assert cadence.is_due(2, 0.0)
