"""Writes on file systems that lack locks or syncs of directories. Other behaviour is tested with the stores."""

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.errors import StoreUnavailable
from shared.store import pending_version
from shared.store.pending_version import PendingVersion, is_abandoned, sync
from shared.store.policy_store import LocalPolicyStore, Retention

NOT_SUPPORTED = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.ENOLCK]


def failing(code: int):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", NOT_SUPPORTED)
def test_file_systems_without_locks_and_directory_syncs_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(code))
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(code, os.strerror(code))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with PendingVersion(tmp_path, fsync=True) as pending:
        pending.write({"policy.ts": b"program"})
        (write,) = (tmp_path / ".pending").iterdir()
        assert is_abandoned(write, 0.0), "its age alone decides"
        assert not is_abandoned(write, 600.0)
        assert pending.commit("v000000")
    assert (tmp_path / "v000000" / "policy.ts").read_bytes() == b"program"


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PendingVersion(tmp_path, fsync=True) as pending, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(StoreUnavailable, match=f"could not write into {tmp_path}: "):
            pending.write({"policy.ts": b"program"})
        with pytest.raises(StoreUnavailable, match=f"could not commit {tmp_path}/v000000: "):
            pending.commit("v000000")
        with pytest.raises(OSError, match="Input/output"):
            sync(tmp_path)


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PendingVersion(tmp_path, fsync=False):
        (write,) = (tmp_path / ".pending").iterdir()
        assert not is_abandoned(write, 0.0), "its writer lives"
        monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            is_abandoned(write, 0.0)


def test_a_taken_name_is_no_error_and_the_write_is_removed(tmp_path: Path) -> None:
    (tmp_path / "v000000").mkdir()
    (tmp_path / "v000000" / "file").touch()
    (tmp_path / "v000001").touch()
    with PendingVersion(tmp_path, fsync=False) as pending:
        pending.write({"a": b"1", "b": b"2"})
        pending.replace({"b": b"3"})
        assert not pending.commit("v000000")
        assert not pending.commit("v000001")
        with pytest.raises(StoreUnavailable, match="could not write into"):
            pending.write({"a": b"again"})
        with pytest.raises(StoreUnavailable, match="could not commit"):
            pending.commit("nowhere/v000002")
        (write,) = (tmp_path / ".pending").iterdir()
        assert {path.name: path.read_bytes() for path in write.iterdir()} == {"a": b"1", "b": b"3"}
    assert list((tmp_path / ".pending").iterdir()) == []


def test_a_store_that_does_not_exist_is_the_callers_matter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PendingVersion(tmp_path / "nowhere", fsync=False)
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=f"could not write into {tmp_path}/file"):
        PendingVersion(tmp_path / "file", fsync=False)


def test_large_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:7]))  # a short write
    with PendingVersion(tmp_path, fsync=False) as pending:
        pending.write({"policy.ts": bytes(range(100))})
        assert pending.commit("v000000")
    assert (tmp_path / "v000000" / "policy.ts").read_bytes() == bytes(range(100))


def test_a_write_is_abandoned_when_its_last_change_is_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tmp_path / ".tmp-write"
    write.mkdir()
    (write / "dangling").symlink_to("nowhere")
    for path in (write / "dangling", write):
        os.utime(path, (5000, 5000), follow_symlinks=False)
    now = SimpleNamespace(time=lambda: 5599.5)
    monkeypatch.setattr(pending_version, "time", now)
    assert not is_abandoned(write, 600.0)
    now.time = lambda: 5600.0
    assert is_abandoned(write, 600.0)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda directory: [*listdir(directory), "removed meanwhile"])
    assert not is_abandoned(write, 600.0), "another sweeper was faster"


def test_a_store_waits_ten_minutes_for_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = tmp_path / ".pending" / ".tmp-write"
    write.mkdir(parents=True)
    os.utime(write, (5000, 5000))
    for now_unix_s, exists in ((5599.5, True), (5600.0, False)):
        monkeypatch.setattr(pending_version, "time", SimpleNamespace(time=lambda now_unix_s=now_unix_s: now_unix_s))
        LocalPolicyStore(tmp_path).sweep(Retention())
        assert write.exists() is exists
