from dataclasses import dataclass, replace

import pytest

from actor.acting.adoption_log import AdoptionLog
from actor.loading.loaded_policy import LoadedPolicy
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import SIGNATURE


@dataclass
class _Clock:
    now_s: float = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr("actor.acting.adoption_log.time", clock)
    return clock


def _policy(version: int) -> LoadedPolicy:
    return LoadedPolicy(version, f"{version:064x}", SIGNATURE, None, "onnx", b"")  # type: ignore[arg-type]


def test_rare_changes_are_logged_at_once(clock: _Clock, captured_logs: CapturedLogs) -> None:
    log = AdoptionLog("actor-0")
    for version in range(3):
        log.changed(_policy(version))
        line = f"policy version {version} adopted agent=actor-0 engine=onnx digest=000000000000"
        assert captured_logs.messages()[-1] == line
        assert not log.unlogged
        clock.now_s += 1.0
    assert len(captured_logs.records) == 3


def test_frequent_changes_are_logged_once_a_second(clock: _Clock, captured_logs: CapturedLogs) -> None:
    log = AdoptionLog("actor-0")
    for version in range(26):
        clock.now_s = version / 10
        log.changed(_policy(version))
    assert [line.split("version ")[1].split()[0] for line in captured_logs.messages()] == ["0", "10", "20"]
    assert captured_logs.messages()[1].endswith("digest=000000000000 changes=10")


def test_every_change_is_logged_in_the_end(clock: _Clock, captured_logs: CapturedLogs) -> None:
    log = AdoptionLog("actor-0")
    log.changed(_policy(0))
    log.changed(_policy(1))
    log.catch_up(_policy(1))
    assert len(captured_logs.records) == 1
    assert log.unlogged == 1
    clock.now_s = 1.0
    log.catch_up(replace(_policy(1), load_ms=4.06))
    line = "policy version 1 adopted agent=actor-0 engine=onnx digest=000000000000 load_ms=4.1"
    assert captured_logs.messages()[1:] == [line]
    log.catch_up(_policy(1))
    log.end(_policy(1))
    assert len(captured_logs.records) == 2
    log.changed(_policy(2))
    log.end(_policy(2))
    log.end(None)
    assert len(captured_logs.records) == 3
