"""Small files beside the versions of a policy store: notes of actors, and quarantine advice. They are unsigned."""

import os
import re
from pathlib import Path
from typing import Protocol

from shared.files.bounded_read import NotRegularFileError, read_regular_file
from shared.files.small_files import write_whole
from shared.files.storage_errors import storage
from shared.store.remote_files import RemoteFiles

MAX_NOTE_BYTES = 2**15
NOTES_DIRECTORY = "notes"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_SUFFIX = ".json"


class StoreNotes(Protocol):
    """Notes in a store; every implementation passes ``tests/contract/test_store_notes.py``.

    A name has 1 to 100 characters of a-z, 0-9 and -; others raise ValueError. All methods may raise StoreUnavailable.
    Nothing is synced to the disk: notes may be lost when the machine crashes.
    """

    def names(self) -> list[str]:
        """Return the names of all notes, ascending."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a note, or None if it does not exist, is longer than MAX_NOTE_BYTES, or is not a regular file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a note atomically."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a new note; return False if it exists. Of several concurrent calls one succeeds."""
        ...

    def remove(self, name: str) -> None:
        """Remove a note if it exists."""
        ...


class LocalNotes:
    """``StoreNotes`` in a local directory, which is created with the first note."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        with storage(f"list {self._directory}"):
            try:
                return _note_names(os.listdir(self._directory))  # noqa: PTH208  (names are all that is needed)
            except FileNotFoundError:
                return []

    def read(self, name: str) -> bytes | None:
        file = _file_name(name)
        with storage(f"read the note {self._directory / file}"):
            try:
                directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return _bounded(read_regular_file(directory, file, MAX_NOTE_BYTES))
            except (FileNotFoundError, NotRegularFileError):
                return None
            finally:
                os.close(directory)

    def write(self, name: str, data: bytes) -> None:
        note = self._directory / _file_name(name)
        with storage(f"write the note {note}"):
            write_whole(self._directory, note.name, data)

    def create(self, name: str, data: bytes) -> bool:
        note = self._directory / _file_name(name)
        with storage(f"write the note {note}"):
            self._directory.mkdir(exist_ok=True)
            try:
                with note.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        note = self._directory / _file_name(name)
        with storage(f"remove the note {note}"):
            note.unlink(missing_ok=True)


class RemoteNotes:
    """``StoreNotes`` in a directory of remote files."""

    def __init__(self, files: RemoteFiles, directory: str) -> None:
        self._files = files
        self._directory = directory

    def names(self) -> list[str]:
        return _note_names(list(self._files.list(self._directory)))

    def read(self, name: str) -> bytes | None:
        try:
            return _bounded(self._files.read(self._path(name), MAX_NOTE_BYTES))
        except (FileNotFoundError, NotRegularFileError):
            return None

    def write(self, name: str, data: bytes) -> None:
        note = self._path(name)
        self._files.make_directory(self._directory)
        self._files.write(note, data)

    def create(self, name: str, data: bytes) -> bool:
        note = self._path(name)
        self._files.make_directory(self._directory)
        return self._files.create(note, data)

    def remove(self, name: str) -> None:
        self._files.remove(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._directory}/{_file_name(name)}"


def _file_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of a note has 1 to 100 characters of a-z, 0-9 and -; found {name!r}")
    return name + _SUFFIX


def _note_names(files: list[str]) -> list[str]:
    names = (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))
    return sorted(name for name in names if _NAME.fullmatch(name))


def _bounded(data: bytes) -> bytes | None:
    return data if len(data) <= MAX_NOTE_BYTES else None
