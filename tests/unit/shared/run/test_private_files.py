"""Permissions of run directories, independent of the mask of the process."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.run.private_files import group_may_read, restrict_new_files
from shared.run.run_directory import RunDirectory, new_run_directory
from tests.support.captured_logs import CapturedLogs
from tests.support.paths import REPOSITORY
from tests.support.second_user import NOBODY


@pytest.fixture(autouse=True)
def _mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_only_the_owner_enters_a_new_run(tmp_path: Path, mask: int) -> None:
    os.umask(mask)
    assert modes(new_run_directory("CartPole-v1", tmp_path / "runs").path) == {0o700}


@pytest.mark.parametrize(("group_readable", "directory", "file"), [(False, 0o700, 0o600), (True, 0o750, 0o640)])
def test_what_a_process_writes_has_the_permissions_of_the_run(
    tmp_path: Path, group_readable: bool, directory: int, file: int
) -> None:
    run = RunDirectory(tmp_path / "run").create()
    restrict_new_files(group_readable=group_readable)
    run.restrict(group_readable=group_readable)
    run.write_options({})
    (run.policies / "v000000").mkdir()
    assert modes(run.path) == {directory, file}
    assert group_may_read(run.path) is group_readable


def test_the_run_of_an_older_release_becomes_private_with_one_log_line(
    tmp_path: Path, captured_logs: CapturedLogs
) -> None:
    run = RunDirectory(tmp_path / "run").create()
    run.path.chmod(0o755)
    run.policies.chmod(0o755)
    for _ in range(2):
        run.create().restrict(group_readable=False)
    assert modes(run.path) == {0o700}
    (line,) = captured_logs.messages()
    assert line == f"run directory made private path={run.path} mode=700 mode_before=755"


def test_a_directory_of_others_is_not_made_private(tmp_path: Path) -> None:
    shared, sticky, empty, own = (tmp_path / name for name in ("shared", "sticky", "empty", "own"))
    for directory, mode in ((shared, 0o755), (sticky, 0o1777), (empty, 0o755), (own, 0o700)):
        directory.mkdir()
        directory.chmod(mode)
    for directory in (shared, own):
        (directory / "notes.txt").touch()
    for directory in (shared, sticky):
        with pytest.raises(ConfigurationError, match="choose a new directory for --run-dir"):
            RunDirectory(directory).create()
    for directory in (empty, own):
        RunDirectory(directory).create().restrict(group_readable=False)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_a_run_that_cannot_be_made_private_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run").create()
    run.path.chmod(0o755)

    def ignore(path: Path, mode: int) -> None: ...

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    for chmod in (ignore, refuse):
        monkeypatch.setattr(Path, "chmod", chmod)
        with pytest.raises(ConfigurationError, match="--run-dir"):
            run.restrict(group_readable=False)


@AS_ROOT
@pytest.mark.parametrize("holds_a_run", [True, False])
def test_nothing_is_written_into_the_directory_of_another_user(tmp_path: Path, holds_a_run: bool) -> None:
    directory = tmp_path / "run"
    (directory / "policies" if holds_a_run else directory).mkdir(parents=True)
    os.chown(directory, NOBODY, NOBODY)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match=f"choose a new --run-dir: .* belongs to user {NOBODY}"):
        RunDirectory(directory).create()
    assert sorted(tmp_path.rglob("*")) == before


def test_only_processes_of_their_own_change_the_mask() -> None:
    """The mask belongs to a process: a library call in the process of another program leaves it."""
    sources = {
        str(path.relative_to(REPOSITORY)): path.read_text()
        for package in ("rl_hotswap", "actor", "learner", "shared")
        for path in (REPOSITORY / package).rglob("*.py")
    }
    assert [name for name, text in sources.items() if "os.umask(" in text] == ["shared/run/private_files.py"]
    calls = {
        name
        for name, text in sources.items()
        if " restrict_new_files(" in text and "def " + "restrict_new_files" not in text
    }
    assert calls == {"rl_hotswap/cli/train.py", "learner/run.py", "actor/session/acting_session.py"}
