import os
from pathlib import Path

import pytest

from actor.versions.quarantine_cache import QuarantineCache
from tests.support.captured_logs import CapturedLogs

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "quarantine"


def test_later_actors_find_the_first_reason(directory: Path) -> None:
    cache = QuarantineCache(directory)
    assert cache.reason(ONE) is None
    cache.add(ONE, "NaN", "actor-1")
    cache.add(ONE, "another", "actor-2")
    assert QuarantineCache(directory).reason(ONE) == "NaN"
    assert QuarantineCache(directory).reason(TWO) is None


def test_the_oldest_files_above_a_thousand_are_dropped(directory: Path) -> None:
    cache = QuarantineCache(directory)
    directory.mkdir(parents=True)
    for number in range(1001):
        (directory / f"{number:064x}.json").touch()
        os.utime(directory / f"{number:064x}.json", (number, number))
    cache.add(ONE, "NaN", "actor-1")
    assert len(list(directory.iterdir())) == 1000
    assert not (directory / f"{1:064x}.json").exists()
    assert (directory / f"{2:064x}.json").exists()
    assert cache.reason(ONE) == "NaN"


def test_a_directory_that_cannot_be_used_is_no_error(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    (tmp_path / "file").touch()
    cache = QuarantineCache(tmp_path / "file" / "quarantine")
    cache.add(ONE, "NaN", "actor-1")
    assert cache.reason(ONE) is None
    assert captured_logs.has("quarantine cache not written error=")
    assert captured_logs.has("quarantine cache not read error=")
