"""Small files that are replaced whole: a reader sees the old content or the new one, even if a writer is killed."""

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from shared.files.storage_errors import storage

TEMPORARY_PREFIX = ".tmp-"
_UNFINISHED = re.compile(r"\..+\.(\d+)\.[0-9a-f]{6}")  # what replace_file writes before it renames


def write_whole(directory: Path, name: str, data: bytes) -> None:
    """Create or replace ``name`` in ``directory``, which is created if missing. Raises OSError."""
    directory.mkdir(exist_ok=True)
    temporary = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(data)
        temporary.rename(directory / name)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` with ``data`` atomically, without syncing it to the disk. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep_dead_writers(directory: Path) -> None:
    """Remove the temporary files of processes of this machine that were killed in ``replace_file``."""
    for path in directory.glob(".*"):
        unfinished = _UNFINISHED.fullmatch(path.name)
        if unfinished is not None and not _is_alive(int(unfinished[1])):
            with suppress(OSError):  # a later sweep tries again
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def forget_oldest(directory: Path, keep: int) -> None:
    """Remove all but the ``keep`` files that were written last. Raises OSError."""
    by_age = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-keep]:
        path.unlink(missing_ok=True)


def sweep_unfinished(directory: Path, abandon_after_s: float) -> None:
    """Remove temporary files of killed writers of ``write_whole`` and of notes. Raises StoreUnavailable."""
    with storage(f"sweep {directory}"):
        for temporary in directory.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):  # its writer has just finished
                if abs(time.time() - temporary.lstat().st_mtime) >= abandon_after_s:
                    temporary.unlink()
