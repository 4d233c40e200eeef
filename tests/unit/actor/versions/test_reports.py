from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from actor.versions import reports as module
from actor.versions.reports import Attempts, Reports, is_interrupt
from tests.support.waiting import Running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_the_newest_thousand_reports_are_kept() -> None:
    reports = Reports()
    for number in range(1001):
        reports.add("INFO", str(number))
    assert [message for _, message in reports] == [str(number) for number in range(1, 1001)]


def test_a_failure_is_reported_once_in_ten_minutes_for_each_phase_and_type(clock: SimpleNamespace) -> None:
    reports = Reports()
    attempts = Attempts(reports)

    def fail(error: BaseException) -> None:
        raise error

    for s in (0, 599, 600, 1199.5, 1200):
        clock.s = s
        assert not attempts.run("loading", lambda: fail(ValueError("no such\nthing")))
    assert not attempts.run("loading", lambda: fail(KeyError("x" * 400)))
    assert not attempts.run("age", lambda: fail(ValueError("no such thing")))
    assert attempts.run("loading", lambda: None)
    line = "policy loader failed phase={} failures={} error={}"
    assert list(reports) == [
        ("ERROR", line.format("loading", 1, "ValueError: no such thing")),
        ("ERROR", line.format("loading", 3, "ValueError: no such thing")),
        ("ERROR", line.format("loading", 5, "ValueError: no such thing")),
        ("ERROR", line.format("loading", 1, "KeyError: '" + "x" * 289)),
        ("ERROR", line.format("age", 1, "ValueError: no such thing")),
    ]


def test_an_interrupt_ends_the_main_thread_only() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    attempts = Attempts(Reports())
    with pytest.raises(KeyboardInterrupt):
        attempts.run("loading", interrupt)
    assert not Running(attempts.run, "loading", interrupt).join()
    assert is_interrupt(SystemExit())
    assert not is_interrupt(ValueError())
    assert not Running(is_interrupt, SystemExit()).join()
