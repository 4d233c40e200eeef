"""A version that is being written to a local store: a temporary directory that a rename commits as a whole.

The directory lies one level below the store: watchdog would wait half a second for the other end of a rename within
the store. The writer holds a lock on it, so that a sweeper can tell a slow or stopped writer from a dead one.
"""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from shared.files.small_files import TEMPORARY_PREFIX
from shared.files.storage_errors import storage

PENDING_DIRECTORY = ".pending"
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.ENOLCK)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class PendingVersion:
    """Context manager of a temporary directory in ``store``, which is removed on exit unless it was committed.

    Methods raise StoreUnavailable; construction raises FileNotFoundError if the directory of the store does not exist.
    """

    def __init__(self, store: Path, *, fsync: bool) -> None:
        self._store = store
        self._fsync = fsync
        self._path = store / PENDING_DIRECTORY / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        with storage(f"write into {store}", expecting=FileNotFoundError):
            self._path.parent.mkdir(exist_ok=True)
            self._path.mkdir()
            self._directory = os.open(self._path, _DIRECTORY)
        with suppress(OSError):  # some network file systems have no locks; there the age alone decides
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)
        shutil.rmtree(self._path, ignore_errors=True)  # does not exist after a commit

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write new files and sync them to the disk."""
        with storage(f"write into {self._store}"), ExitStack() as opened:
            descriptors = []
            for name, data in files.items():
                descriptor = os.open(name, _NEW_FILE, 0o666, dir_fd=self._directory)
                opened.callback(os.close, descriptor)
                descriptors.append(descriptor)
                _write_all(descriptor, data)
            if self._fsync:  # after all writes, so that the disk can merge them
                for descriptor in descriptors:
                    os.fsync(descriptor)
                _sync(self._directory)

    def replace(self, files: Mapping[str, bytes]) -> None:
        with storage(f"write into {self._store}"):
            for name in files:
                os.unlink(name, dir_fd=self._directory)
        self.write(files)

    def commit(self, name: str) -> bool:
        """Rename the directory to ``name``; return False if that name is taken."""
        with storage(f"commit {self._store / name}"):
            try:
                self._path.rename(self._store / name)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    return False
                raise
            if self._fsync:
                sync(self._store)
        return True


def is_abandoned(path: Path, abandon_after_s: float) -> bool:
    """Return True if ``path`` was not written to for ``abandon_after_s`` and no live writer holds its lock."""
    try:
        directory = os.open(path, _DIRECTORY)
    except OSError:
        return False  # committed or removed meanwhile, or not a directory of a writer
    try:
        # A time stamp far in the future means that the clock was set back, not that the writer is active.
        now_unix_s = time.time()
        is_old = all(abs(now_unix_s - stamp) >= abandon_after_s for stamp in _write_times_unix_s(directory))
        return is_old and _lock_is_free(directory)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)


def _write_times_unix_s(directory: int) -> list[float]:
    files = [os.stat(name, dir_fd=directory, follow_symlinks=False) for name in os.listdir(directory)]
    return [status.st_mtime for status in (os.fstat(directory), *files)]


def _lock_is_free(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    return True


def sync(path: Path) -> None:
    """Sync a file, or the names in a directory, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:  # some file systems cannot sync directories
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
