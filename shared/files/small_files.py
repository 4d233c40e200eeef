"""Small files that many processes write into one local directory: each is seen whole, whoever is killed."""

import secrets
import time
from contextlib import suppress
from pathlib import Path

from shared.files.storage_errors import storage
from shared.store.pending_version import TEMPORARY_PREFIX


def write_whole(directory: Path, name: str, data: bytes) -> None:
    """Write or replace ``name``, and make ``directory`` where it is not there yet. Raises OSError."""
    directory.mkdir(exist_ok=True)
    temporary = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(data)
        temporary.rename(directory / name)
    finally:
        temporary.unlink(missing_ok=True)


def forget_oldest(directory: Path, keep: int) -> None:
    """Remove all but the ``keep`` files that were written last. Raises OSError."""
    by_age = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-keep]:
        path.unlink(missing_ok=True)


def sweep_unfinished(directory: Path, abandon_after_s: float) -> None:
    """Remove what was left by processes that were killed in ``write_whole``. Raises StoreUnavailable."""
    with storage(f"sweep {directory}"):
        for temporary in directory.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):  # its writer has just finished
                if abs(time.time() - temporary.lstat().st_mtime) >= abandon_after_s:
                    temporary.unlink()
