"""A policy store in a directory, which commits by renaming.

Beside versions (``v000042``), ``quarantine`` and ``notes`` the directory contains:

- ``.pending/.tmp-…``: a version that is being written. A rename commits it: readers see all of it or nothing.
- ``.highest-000042``: the high-water mark, an empty file created before version 42 is committed. It prevents a number
  from being used twice after the newest version was removed or its publisher was killed. Creating it claims the number:
  of two publishers one fails and takes the next.

A version is swept in place, its manifest first: without a manifest there is no version. If a sweeper is killed, the
next one removes what is left of the directory.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from shared.errors import StoreError, VersionNotFound
from shared.files.small_files import TEMPORARY_PREFIX, sweep_unfinished
from shared.files.storage_errors import storage
from shared.policy.manifest import MANIFEST_NAME, Manifest
from shared.store.pending_version import PENDING_DIRECTORY, PendingVersion, is_abandoned, sync
from shared.store.store_notes import NOTES_DIRECTORY, QUARANTINE_DIRECTORY, LocalNotes, Quarantine
from shared.store.version_directory import open_version
from shared.store.version_files import (
    MAX_NUMBER,
    DescribeVersion,
    Retention,
    Sign,
    VersionFiles,
    describe_files,
    describe_version,
    mark_name,
    parse_mark_name,
    parse_version_name,
    version_name,
)
from shared.store.version_numbers import IgnoredNumbers, StoreNumbers, plausible_numbers

_TRASH_PREFIX = ".trash-"


class LocalPolicyStore:
    """``PolicyStore`` in a directory of this machine or of a mounted file system.

    Any number of processes may read and publish, and be killed at any point.

    Without ``fsync`` a crash of the operating system may damage versions. An unfinished version is swept
    ``abandon_after_s`` after its last write. With ``used_numbers`` no number is reused even if the store is removed.
    """

    def __init__(
        self,
        path: Path,
        *,
        fsync: bool = True,
        abandon_after_s: float = 600.0,
        used_numbers: "UsedNumbers | None" = None,
    ) -> None:
        self.path = Path(path).absolute()  # stays the same when the process changes its directory
        self._fsync = fsync
        self._abandon_after_s = abandon_after_s
        self._used_numbers = used_numbers
        self._highest: int | None = None
        self._stuck: set[str] = set()
        self._ignored = IgnoredNumbers(self)
        self._quarantine = Quarantine(LocalNotes(self.path / QUARANTINE_DIRECTORY))
        self.notes = LocalNotes(self.path / NOTES_DIRECTORY)

    def __repr__(self) -> str:
        return f"LocalPolicyStore({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def watch_path(self) -> Path:
        return self.path

    def versions(self) -> list[int]:
        return list(self._numbers().versions)

    def newest(self) -> int | None:
        return max(self._numbers().versions, default=None)

    def _numbers(self, used: int | None = None) -> StoreNumbers:
        """List the store. ``used`` is the highest number that the run has used; None: as ``UsedNumbers`` says."""
        if used is None and self._used_numbers is not None:
            used = self._used_numbers.highest()
        found = _list(self.path)
        return self._ignored.report(plausible_numbers(found.versions, found.marks, others=found.others, used=used))

    def open(self, version: int) -> VersionFiles:
        return open_version(self.path / version_name(version), version)

    def publish(
        self, files: Mapping[str, bytes], describe: DescribeVersion, *, durable: bool = True, sign: Sign | None = None
    ) -> Manifest:
        entries = describe_files(files)
        version = self._next_version()
        manifest, stated = describe_version(version, entries, describe, sign)
        with self._pending_version(fsync=durable and self._fsync) as pending:
            pending.write({**files, **stated})
            while not (self._claim(version) and pending.commit(version_name(version))):
                version = self._next_version()
                manifest, stated = describe_version(version, entries, describe, sign)
                pending.replace(stated)
        return manifest

    def make_durable(self, version: int) -> None:
        if not self._fsync:
            return
        directory = self.path / version_name(version)
        with storage(f"sync {directory}"):
            try:
                for path in (*directory.iterdir(), directory, self.path):
                    sync(path)
            except FileNotFoundError as error:
                raise VersionNotFound(f"version {version} was swept from {self} before it was synced") from error

    def _next_version(self) -> int:
        if self._highest is None:
            self._highest = self._numbers().highest
        if self._highest >= MAX_NUMBER:
            raise StoreError(f"use a new store: the highest used number of {self}, {self._highest}, has no successor")
        return self._highest + 1

    def _pending_version(self, *, fsync: bool) -> PendingVersion:
        try:
            return PendingVersion(self.path, fsync=fsync)
        except FileNotFoundError:
            with storage(f"make {self.path}"):
                self.path.mkdir(parents=True, exist_ok=True)
                return PendingVersion(self.path, fsync=fsync)

    def _claim(self, version: int) -> bool:
        """Create the high-water mark ``version``; return False if another publisher may have the number.

        The listing afterwards is needed: marks are removed below a higher one, so that creating one proves nothing if
        others have published more since the last listing.
        """
        if self._used_numbers is not None and not self._used_numbers.use(version):
            self._highest = max(version, self._used_numbers.highest())
            return False
        is_ours = _create_mark(self.path, version)
        numbers = self._numbers(used=version)
        self._highest = numbers.highest
        if self._highest in numbers.marks:
            _remove_marks(self.path, numbers.marks, self._highest)
        return is_ours and self._highest == version and version not in numbers.versions

    def sweep(self, retention: Retention) -> list[int]:
        with storage(f"sweep {self.path}"):
            swept = [v for v in retention.expendable(self.versions()) if self._remove(version_name(v))]
            self._sweep_pending()
            for directory in (QUARANTINE_DIRECTORY, NOTES_DIRECTORY):
                sweep_unfinished(self.path / directory, self._abandon_after_s)
        return swept

    def _remove(self, name: str) -> bool:
        """Remove a version in place; return False if another sweeper began to."""
        directory = self.path / name
        existed = False
        with suppress(OSError):  # removed already, or not a file
            (directory / MANIFEST_NAME).unlink()
            existed = True
        self._delete(directory)
        return existed

    def _sweep_pending(self) -> None:
        """Remove what killed writers left. A rename comes first, so that a slow writer cannot commit a part."""
        pending = self.path / PENDING_DIRECTORY
        for path in list(pending.iterdir()) if pending.is_dir() else []:
            if path.name.startswith(TEMPORARY_PREFIX) and is_abandoned(path, self._abandon_after_s):
                logger.info("abandoned write swept store={} directory={}", self.path, path.name)
                trash = pending / f"{_TRASH_PREFIX}{secrets.token_hex(8)}"
                with suppress(FileNotFoundError):  # committed, or another sweeper was faster
                    path.rename(trash)
                    self._delete(trash)
            elif path.name.startswith(_TRASH_PREFIX):
                self._delete(path)

    def _delete(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)  # another sweeper may remove it too
        if os.path.lexists(directory) and directory.name not in self._stuck:
            self._stuck.add(directory.name)
            logger.warning("swept version not removed yet store={} directory={}", self.path, directory.name)

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        self._quarantine.add(digest, reason, by)

    def quarantined(self) -> dict[str, str]:
        return self._quarantine.reasons()


class UsedNumbers:
    """A directory outside a store that records, as a file name, the highest version number that a run has used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def highest(self) -> int:
        """Return the highest used number, or -1. Raises StoreUnavailable."""
        return max(_list(self._directory).marks, default=-1)

    def use(self, number: int) -> bool:
        """Claim ``number``; return False if it or a higher one was used before. Raises StoreUnavailable."""
        with storage(f"make {self._directory}"):
            self._directory.mkdir(parents=True, exist_ok=True)
        if not _create_mark(self._directory, number):
            return False
        marks = _list(self._directory).marks
        _remove_marks(self._directory, marks, max(marks))
        return max(marks) == number


@dataclass
class _Listing:
    """Numbers in the directory of a store; ``others`` are those of files with the name of a version."""

    versions: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def add(self, entry: os.DirEntry[str]) -> None:
        if (version := parse_version_name(entry.name)) is not None:
            (self.versions if entry.is_dir(follow_symlinks=False) else self.others).append(version)
        elif (mark := parse_mark_name(entry.name)) is not None:
            self.marks.append(mark)


def _list(path: Path) -> _Listing:
    listing = _Listing()
    with storage(f"list {path}"), suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            listing.add(entry)
    return listing


def _create_mark(directory: Path, number: int) -> bool:
    """Create the high-water mark ``number``; return False if it exists."""
    mark = directory / mark_name(number)
    with storage(f"make {mark}"):
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def _remove_marks(directory: Path, marks: Sequence[int], below: int) -> None:
    for mark in marks:
        if mark < below:
            with suppress(OSError):  # the next publication tries again
                (directory / mark_name(mark)).unlink()
