"""Version numbers that a run has used, recorded outside its store: the store may be removed and come back."""

import os
from contextlib import suppress
from pathlib import Path

from shared.files.storage_errors import storage
from shared.store.version_files import mark_name, parse_mark_name


class UsedNumbers:
    """A directory with one empty file, named after the highest used number. Any number of processes may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def highest(self) -> int:
        """Return the highest used number, or -1. Raises StoreUnavailable."""
        return max(self._marks(), default=-1)

    def use(self, number: int) -> bool:
        """Claim ``number``; return False if it or a higher one was used before. Raises StoreUnavailable."""
        with storage(f"make {self._directory / mark_name(number)}"):
            self._directory.mkdir(parents=True, exist_ok=True)
            try:
                (self._directory / mark_name(number)).touch(exist_ok=False)
            except FileExistsError:
                return False
        marks = self._marks()
        for lower in marks:
            if lower < max(marks):  # a mark below another one is redundant
                with suppress(OSError):
                    (self._directory / mark_name(lower)).unlink()
        return max(marks) == number

    def _marks(self) -> list[int]:
        with storage(f"list {self._directory}"):
            try:
                names = [entry.name for entry in os.scandir(self._directory)]
            except FileNotFoundError:
                return []
        return [mark for mark in map(parse_mark_name, names) if mark is not None]
