"""Which version numbers a run has used, kept outside its store: that may be taken away, and come back."""

import os
from contextlib import suppress
from pathlib import Path

from shared.storage_faults import storage
from shared.version_files import mark_name, parse_mark_name


class UsedNumbers:
    """A directory with one empty file, named for the highest number that was used. For one publisher at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._highest: int | None = None

    def highest(self) -> int:
        """-1 where none was used. Raises StoreUnavailable."""
        if self._highest is None:
            with storage(f"list {self._directory}"):
                self._directory.mkdir(parents=True, exist_ok=True)
                marks = (parse_mark_name(entry.name) for entry in os.scandir(self._directory))
                self._highest = max((mark for mark in marks if mark is not None), default=-1)
        return self._highest

    def use(self, number: int) -> None:
        """From now on ``number`` and those below it are used. Raises StoreUnavailable."""
        before = self.highest()
        if number <= before:
            return
        mark = self._directory / mark_name(number)
        with storage(f"make {mark}"):
            mark.touch()
        self._highest = number
        with suppress(OSError):  # a lower mark is no matter beside a higher one
            (self._directory / mark_name(before)).unlink(missing_ok=True)
