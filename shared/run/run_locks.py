"""Locks on a run directory. The kernel releases them when their process ends, however it ends (``flock``)."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ConfigurationError, StoreLocked

_PATIENCE_S = 1.0


@contextlib.contextmanager
def hold_lock(path: Path, role: str) -> Iterator[None]:
    """Hold the lock file ``path`` for a process with ``role`` ("learner", "supervisor").

    Raises:
        StoreLocked: another process holds the lock.
        ConfigurationError: the file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+b", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"remove what is there, or choose another --run-dir: cannot open the {role}'s lock file {path}: "
            f"{error.strerror or error}"
        ) from error
    with opened as file:
        _acquire(file.fileno(), path, role)
        with contextlib.suppress(OSError):  # the process id is only for messages, and the disk may be full
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def is_locked(path: Path) -> bool:
    """True when a process holds the lock file ``path``. Raises ConfigurationError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error


def _acquire(descriptor: int, path: Path, role: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S  # ``is_locked`` holds the lock for an instant
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise StoreLocked(
                    f"stop the other {role}, or choose another --run-dir: process {path.read_text() or 'unknown'} "
                    f"already runs a {role} in {path.parent}"
                ) from error
            time.sleep(0.02)
