"""The place of the acting records that belong to one cache directory."""

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_SUFFIX = ".record"


@dataclass(frozen=True)
class RecordPlace:
    """A directory, and the prefix of the records' names in it."""

    directory: Path
    prefix: str

    def path(self, name: str) -> Path:
        """Return the path of the record ``name``."""
        return self.directory / f"{self.prefix}-{name}{_SUFFIX}"

    def paths(self) -> list[Path]:
        """Return the paths of all records."""
        return sorted(self.directory.glob(f"{self.prefix}-*{_SUFFIX}")) if self.directory.is_dir() else []


def record_place(cache_directory: Path) -> RecordPlace:
    """Return the place of the records that belong to ``cache_directory``.

    On Linux it is shared memory: a store into it never waits for a disk, and nothing in it outlives a reboot.
    """
    prefix = hashlib.sha256(os.fsencode(cache_directory.resolve())).hexdigest()[:16]
    directory = _SHARED_MEMORY / f"rl-hotswap-{os.geteuid()}"
    if sys.platform == "linux" and _is_private(directory):
        return RecordPlace(directory, prefix)
    return RecordPlace(cache_directory / "acting", prefix)


def _is_private(directory: Path) -> bool:
    """Return True if ``directory`` could be created, or is one of this user that no other user may enter."""
    with suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        return status.st_uid == os.geteuid() and status.st_mode & 0o170077 == 0o040000
    return False
