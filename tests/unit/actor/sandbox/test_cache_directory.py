"""Directories that are no place for this user's caches."""

import os
from pathlib import Path

import pytest

from actor.sandbox.cache_directory import usable_cache
from actor.sandbox.program_sandbox import SandboxCache, SandboxKey
from tests.support.captured_logs import CapturedLogs


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A private directory with the caches in it."""
    path = tmp_path / "rl-hotswap"
    assert usable_cache(path) == path
    (path / "quarantine").mkdir()
    return path


def test_a_new_directory_is_private(directory: Path, captured_logs: CapturedLogs) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / "a-file").touch()
    assert usable_cache(directory) == directory
    assert not captured_logs.messages("WARNING")


def _open_to_others(directory: Path) -> None:
    directory.chmod(0o770)


def _of_another_user(directory: Path) -> None:
    os.chown(directory, 65534, 65534)


def _contains_a_directory_of_another_user(directory: Path) -> None:
    os.chown(directory / "quarantine", 65534, 65534)


def _contains_a_file_of_another_user(directory: Path) -> None:
    (directory / "quarantine" / "planted.json").touch()
    os.chown(directory / "quarantine" / "planted.json", 65534, 65534)


def _a_link(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")


def _contains_a_link(directory: Path) -> None:
    (directory / "tried-programs").symlink_to("quarantine")


def _a_file(directory: Path) -> None:
    (directory / "quarantine").rmdir()
    directory.rmdir()
    directory.touch()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_open_to_others, "run chmod 700 {}: expected a private directory, found mode 0770"),
        (_of_another_user, "remove {}: expected it to belong to user 0, found user 65534"),
        (_contains_a_directory_of_another_user, "remove {}/quarantine: expected it to belong to user 0"),
        (_contains_a_file_of_another_user, "remove {}/quarantine/planted.json: expected it to belong to user 0"),
        (_a_link, "remove {}: expected a directory, found a link or a file"),
        (_contains_a_link, "remove {}/tried-programs: expected no symbolic link"),
        (_a_file, "choose another with XDG_CACHE_HOME: "),
    ],
)
def test_a_directory_that_another_user_may_have_written_to_is_not_used(
    directory: Path, captured_logs: CapturedLogs, change: object, said: str
) -> None:
    if os.geteuid() != 0 and "user" in said:
        pytest.skip("only root can give a directory away")
    change(directory)  # type: ignore[operator]
    assert usable_cache(directory) is None
    (line,) = captured_logs.messages("WARNING")
    assert line.startswith("cache directory not used reason=" + said.format(directory))


def test_a_planted_record_does_not_count(directory: Path) -> None:
    """A record says that a program passed."""
    key = SandboxKey("onnx", "0" * 64, 1)
    cache = SandboxCache.below(directory)
    assert cache is not None
    cache.add(key, 1e-5)
    assert cache.call_s(key) == 1e-5
    directory.chmod(0o777)
    assert SandboxCache.below(directory) is None
