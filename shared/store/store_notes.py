"""Small files beside the versions of a policy store: notes of actors, and quarantine advice. They are unsigned."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from shared.errors import StoreUnavailable
from shared.files.bounded_read import NotRegularFileError, read_regular_file
from shared.files.small_files import TEMPORARY_PREFIX
from shared.files.storage_errors import storage
from shared.store.remote_files import RemoteFiles

MAX_NOTE_BYTES = 2**15
NOTES_DIRECTORY = "notes"
QUARANTINE_DIRECTORY = "quarantine"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_SUFFIX = ".json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_REASON_CHARACTERS = 2000
_MAX_NAME_CHARACTERS = 200


class StoreNotes(Protocol):
    """Notes in a store; every implementation passes ``tests/contract/test_store_notes.py``.

    A name has 1 to 100 characters of a-z, 0-9 and -; others raise ValueError. All methods may raise StoreUnavailable.
    Nothing is synced to the disk: notes may be lost when the machine crashes.
    """

    def names(self) -> list[str]:
        """Return the names of all notes, ascending."""

    def read(self, name: str) -> bytes | None:
        """Return a note, or None if it does not exist, is longer than MAX_NOTE_BYTES, or is not a regular file."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a note atomically."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a new note; return False if it exists. Of several concurrent calls one succeeds."""

    def remove(self, name: str) -> None:
        """Remove a note if it exists."""


class LocalNotes:
    """``StoreNotes`` in a local directory, which is created with the first note."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        with storage(f"list {self._directory}"):
            try:
                with self._opened() as directory:
                    return _note_names(os.listdir(directory))  # noqa: PTH208  (an open directory has no path)
            except FileNotFoundError:
                return []

    def read(self, name: str) -> bytes | None:
        file = _file_name(name)
        with storage(f"read the note {self._directory / file}"):
            try:
                with self._opened() as directory:
                    return _bounded(read_regular_file(directory, file, MAX_NOTE_BYTES))
            except (FileNotFoundError, NotRegularFileError):
                return None

    def write(self, name: str, data: bytes) -> None:
        file, temporary = _file_name(name), f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        with storage(f"write the note {self._directory / file}"), self._opened(create=True) as directory:
            try:
                _write_new(directory, temporary, data)
                os.rename(temporary, file, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                raise

    def create(self, name: str, data: bytes) -> bool:
        file = _file_name(name)
        with storage(f"write the note {self._directory / file}"), self._opened(create=True) as directory:
            try:
                _write_new(directory, file, data)
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        file = _file_name(name)
        with (
            storage(f"remove the note {self._directory / file}"),
            suppress(FileNotFoundError),
            self._opened() as directory,
        ):
            os.unlink(file, dir_fd=directory)

    @contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[int]:
        """Open the directory, but no link in its place: it could lead to any directory of this user. Raises OSError."""
        if create:
            self._directory.mkdir(exist_ok=True)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)


def _write_new(directory: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=directory), "wb") as file:
        file.write(data)


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


class QuarantineAdvice(msgspec.Struct, frozen=True):
    """The version with this manifest digest failed in the process ``by``."""

    digest: str
    reason: str
    by: str
    created_unix_s: float


class Quarantine:
    """Quarantine advice in ``notes``, which are named after digests. Methods raise StoreUnavailable."""

    def __init__(self, notes: StoreNotes) -> None:
        self._notes = notes
        self._reasons: dict[str, str | None] = {}

    def add(self, digest: str, reason: str, by: str) -> None:
        """Write advice unless there is some; long texts are cut. Raises ValueError if ``digest`` is not a digest."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"expected the digest of a manifest, 64 hexadecimal digits; found {digest!r}")
        if digest not in self._notes.names():
            reason, by = _cut(reason, _MAX_REASON_CHARACTERS), _cut(by, _MAX_NAME_CHARACTERS)
            self._notes.write(digest, msgspec.json.encode(QuarantineAdvice(digest, reason, by, time.time())))

    def reasons(self) -> dict[str, str]:
        """Return digest -> reason. Each note is read once, since advice never changes; invalid ones are skipped."""
        known = self._reasons
        self._reasons = {}
        for digest in filter(_DIGEST.fullmatch, self._notes.names()):
            with suppress(StoreUnavailable):  # one unreadable note does not hide the others; the next call reads again
                self._reasons[digest] = known[digest] if digest in known else self._reason(digest)
        return {digest: reason for digest, reason in self._reasons.items() if reason is not None}

    def advice(self, digest: str) -> QuarantineAdvice | None:
        """Return the advice about ``digest``, or None if there is no valid one."""
        data = self._notes.read(digest)
        if data is None:
            return None
        try:
            advice = msgspec.json.decode(data, type=QuarantineAdvice)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return advice if advice.digest == digest else None

    def _reason(self, digest: str) -> str | None:
        return advice.reason if (advice := self.advice(digest)) else None


def _cut(text: str, characters: int) -> str:
    return text[:characters].encode(errors="replace").decode()


def _file_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of a note has 1 to 100 characters of a-z, 0-9 and -; found {name!r}")
    return name + _SUFFIX


def _note_names(files: list[str]) -> list[str]:
    names = (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))
    return sorted(name for name in names if _NAME.fullmatch(name))


def _bounded(data: bytes) -> bytes | None:
    return data if len(data) <= MAX_NOTE_BYTES else None
