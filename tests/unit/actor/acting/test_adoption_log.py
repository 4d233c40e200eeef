from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from loguru import logger

from actor.acting.adoption_log import AdoptionLog
from actor.loading.loaded_policy import LoadedPolicy
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


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def _policy(version: int) -> LoadedPolicy:
    return LoadedPolicy(version, f"{version:064x}", SIGNATURE, None, "onnx", b"")  # type: ignore[arg-type]


def test_rare_changes_are_logged_at_once(clock: _Clock, said: list[str]) -> None:
    log = AdoptionLog("actor-0")
    for version in range(3):
        log.changed(_policy(version))
        assert said[-1] == f"policy version {version} adopted agent=actor-0 engine=onnx digest=000000000000\n"
        assert not log.unlogged
        clock.now_s += 1.0
    assert len(said) == 3


def test_frequent_changes_are_logged_once_a_second(clock: _Clock, said: list[str]) -> None:
    log = AdoptionLog("actor-0")
    for version in range(26):
        clock.now_s = version / 10
        log.changed(_policy(version))
    assert [line.split("version ")[1].split()[0] for line in said] == ["0", "10", "20"]
    assert said[1].endswith("digest=000000000000 changes=10\n")


def test_every_change_is_logged_in_the_end(clock: _Clock, said: list[str]) -> None:
    log = AdoptionLog("actor-0")
    log.changed(_policy(0))
    log.changed(_policy(1))
    log.catch_up(_policy(1))
    assert len(said) == 1
    assert log.unlogged == 1
    clock.now_s = 1.0
    log.catch_up(_policy(1))
    assert said[1:] == ["policy version 1 adopted agent=actor-0 engine=onnx digest=000000000000\n"]
    log.catch_up(_policy(1))
    log.end(_policy(1))
    assert len(said) == 2
    log.changed(_policy(2))
    log.end(_policy(2))
    log.end(None)
    assert len(said) == 3
