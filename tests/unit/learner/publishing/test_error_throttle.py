"""What fails for a while: told at its beginning, now and then, and at its end."""

from collections.abc import Iterator

import pytest
from loguru import logger

from learner.publishing.error_throttle import ErrorThrottle


@pytest.fixture
def lines() -> Iterator[list[str]]:
    records: list[str] = []
    sink = logger.add(lambda message: records.append(str(message).strip()), format="{level} {function} {message}")
    yield records
    logger.remove(sink)


def test_what_works_is_not_mentioned(lines: list[str]) -> None:
    outage = ErrorThrottle("publishing")
    outage.worked()
    outage.worked()
    assert lines == []


def test_a_failure_is_told_by_whoever_met_it_and_so_is_its_end(lines: list[str]) -> None:
    outage = ErrorThrottle("publishing")
    outage.failed(OSError("disk full"), "training goes on")
    outage.worked()
    outage.worked()
    here = "test_a_failure_is_told_by_whoever_met_it_and_so_is_its_end"
    assert lines[0] == f"ERROR {here} publishing fails: OSError: disk full; training goes on"
    assert lines[1].startswith(f"WARNING {here} publishing works again: it failed 1 times, for 0")
    assert len(lines) == 2


def test_a_long_outage_is_no_flood_and_the_next_one_is_told_at_once(lines: list[str]) -> None:
    outage = ErrorThrottle("publishing")
    for _ in range(1000):
        outage.failed(OSError("disk full"), "training goes on")
    assert len(lines) == 10  # 1, 2, 4, … 512
    assert "fails (512 times in a row): " in lines[-1]
    outage.worked()
    outage.failed(OSError("gone"), "training goes on")
    assert "fails: OSError: gone" in lines[-1]
