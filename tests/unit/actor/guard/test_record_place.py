import os
import sys
from pathlib import Path

import pytest

from actor.guard import record_place as module
from actor.guard.record_place import record_place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory as a directory")


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shm"
    path.mkdir()
    monkeypatch.setattr(module, "_SHARED_MEMORY", path)
    return path


def test_each_cache_directory_has_its_own_records_in_shared_memory(shared_memory: Path, tmp_path: Path) -> None:
    one, other = record_place(tmp_path / "one"), record_place(tmp_path / "other")
    assert one.directory == other.directory == shared_memory / f"rl-hotswap-{os.geteuid()}"
    assert one.directory.stat().st_mode & 0o777 == 0o700
    assert one.prefix != other.prefix
    assert record_place(tmp_path / "one") == one


@pytest.mark.parametrize("flaw", ["open to others", "a link", "a file", "no shared memory"])
def test_a_directory_that_another_user_may_have_made_is_not_used(
    shared_memory: Path, tmp_path: Path, flaw: str
) -> None:
    directory = shared_memory / f"rl-hotswap-{os.geteuid()}"
    match flaw:
        case "open to others":
            directory.mkdir()
            directory.chmod(0o755)
        case "a link":
            directory.symlink_to(tmp_path)
        case "a file":
            directory.touch()
        case _:
            shared_memory.rmdir()
    assert record_place(tmp_path / "cache").directory == tmp_path / "cache" / "acting"
