"""The policy store: where versions are published, whole and verified, under numbers that only ever grow (DESIGN 5).

A local store's directory holds, beside its versions (``v000042``) and ``quarantine``:

- ``.tmp-…`` a version that is being written. A rename makes it a version: readers see all of it or nothing.
- ``.highest-000042`` the high-water mark, an empty file made before version 42 is committed. It is what keeps a number
  from being used twice when the newest directory was deleted, or when its publisher was killed. Making it is also the
  claim to the number: of two publishers one fails, and takes the next.
- ``.trash-…`` what is being deleted. A reader that has lost the race finds nothing under the old name.
"""

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loguru import logger

from shared.bounded_read import NotRegularFileError, read_regular_file
from shared.errors import ConfigurationError
from shared.manifest import MANIFEST_NAME, Manifest
from shared.pending_version import TEMPORARY_PREFIX, PendingVersion, is_abandoned
from shared.quarantine_advice import (
    MAX_ADVICE_BYTES,
    QUARANTINE_DIRECTORY,
    advice_name,
    advised_digest,
    decode_advice,
    encode_advice,
)
from shared.retention import Retention
from shared.storage_faults import storage
from shared.version_directory import open_version, open_version_directory
from shared.version_files import (
    DescribeVersion,
    VersionFiles,
    describe_files,
    describe_version,
    mark_name,
    parse_mark_name,
    parse_version_name,
    version_name,
)

__all__ = [
    "LocalPolicyStore",
    "PolicyStore",
    "Retention",
    "VersionFiles",
    "open_store",
    "open_version_directory",
    "parse_version_name",
    "version_name",
]

_TRASH_PREFIX = ".trash-"


class PolicyStore(Protocol):
    """One conformance suite holds for every implementation: ``tests/contract/test_policy_store.py``.

    Every method may raise StoreUnavailable. A store that is not there yet is an empty one; publishing makes it.
    """

    @property
    def watch_path(self) -> Path | None:
        """Where file events tell of new versions (perhaps not there yet), or None where only polling helps."""
        ...

    def publish(self, files: Mapping[str, bytes], describe: DescribeVersion) -> Manifest:
        """Commit one version with these ``files`` under the next number, and return its manifest as readers see it.

        ``describe`` makes the manifest for the number and the files' entries; it is called again with a higher number
        where another publisher was faster. Raises ManifestError where it makes one that no reader would take.
        """
        ...

    def versions(self) -> list[int]:
        """The committed versions, ascending; cheap enough for polling: one listing."""
        ...

    def newest(self) -> int | None:
        """The highest committed version, or None."""
        ...

    def open(self, version: int) -> VersionFiles:
        """Read and check a version's manifest. Raises VersionNotFound (select again) or ManifestError."""
        ...

    def sweep(self, retention: Retention) -> list[int]:
        """Remove the versions that ``retention`` does not keep, and abandoned writes. Returns the versions removed."""
        ...

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        """Advise others that a manifest's ``digest`` failed. The first reason given for a digest stays."""
        ...

    def quarantined(self) -> dict[str, str]:
        """The advice of all actors: digest -> reason."""
        ...


class LocalPolicyStore:
    """A store in a directory of this machine, or of a mounted file system.

    Any number of processes may read and publish. ``fsync=False`` trusts the operating system not to crash; a process
    may be killed at any point in either case. An abandoned write is swept ``abandon_after_s`` after its last write.
    """

    def __init__(self, path: Path, *, fsync: bool = True, abandon_after_s: float = 600.0) -> None:
        self.path = Path(path).absolute()  # a process that changes its directory goes on in the same store
        self._fsync = fsync
        self._abandon_after_s = abandon_after_s
        self._highest: int | None = None
        self._stuck_trash: set[str] = set()
        self._advice: dict[str, str | None] = {}

    def __repr__(self) -> str:
        return f"LocalPolicyStore({str(self.path)!r})"

    @property
    def watch_path(self) -> Path:
        return self.path

    def versions(self) -> list[int]:
        return sorted(self._list().versions)

    def newest(self) -> int | None:
        return max(self._list().versions, default=None)

    def open(self, version: int) -> VersionFiles:
        return open_version(self.path / version_name(version), version)

    def publish(self, files: Mapping[str, bytes], describe: DescribeVersion) -> Manifest:
        entries = describe_files(files)
        version = self._next_version()
        manifest, manifest_bytes = describe_version(version, entries, describe)
        with self._pending_version() as pending:
            pending.write({**files, MANIFEST_NAME: manifest_bytes})
            while not (self._claim(version) and pending.commit(version_name(version))):
                version = self._next_version()
                manifest, manifest_bytes = describe_version(version, entries, describe)
                pending.replace(MANIFEST_NAME, manifest_bytes)
        return manifest

    def _next_version(self) -> int:
        if self._highest is None:
            self._highest = self._list().highest
        return self._highest + 1

    def _pending_version(self) -> PendingVersion:
        try:
            return PendingVersion(self.path, fsync=self._fsync)
        except FileNotFoundError:
            with storage(f"make {self.path}"):
                self.path.mkdir(parents=True, exist_ok=True)
                return PendingVersion(self.path, fsync=self._fsync)

    def _claim(self, version: int) -> bool:
        """Make the high-water mark ``version``. False where the number is another's, or may have been.

        The listing afterwards matters: a mark is removed once there is a higher one, so that making it proves nothing
        if others have gone beyond it since we last looked.
        """
        mark = self.path / mark_name(version)
        is_ours = True
        with storage(f"make {mark}"):
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                is_ours = False
        listing = self._list()
        self._highest = max(listing.highest, version)
        for lower in listing.marks:
            if lower < self._highest and self._highest in listing.marks:
                with suppress(OSError):  # the next publication tries again
                    (self.path / mark_name(lower)).unlink()
        return is_ours and listing.highest == version and version not in listing.versions

    def sweep(self, retention: Retention) -> list[int]:
        with storage(f"sweep {self.path}"):
            listing = self._list()
            swept = [v for v in retention.expendable(listing.versions) if self._move_to_trash(version_name(v))]
            for name in listing.temporaries:
                if is_abandoned(self.path / name, self._abandon_after_s):
                    logger.info("{}: sweeping the abandoned write {}", self.path, name)
                    self._move_to_trash(name)
            self._empty_trash()
        return swept

    def _move_to_trash(self, name: str) -> bool:
        """Rename inside the store: atomic, and no watcher's next event is delayed. False where it is gone already."""
        try:
            (self.path / name).rename(self.path / f"{_TRASH_PREFIX}{name.lstrip('.')}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return False
        return True

    def _empty_trash(self) -> None:
        for name in self._list().trash:
            shutil.rmtree(self.path / name, ignore_errors=True)  # another sweeper may be at it
            if os.path.lexists(self.path / name) and name not in self._stuck_trash:
                self._stuck_trash.add(name)
                logger.warning("{}: could not remove {} yet; every sweep tries again", self.path, name)

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        directory = self.path / QUARANTINE_DIRECTORY
        advice = directory / advice_name(digest)
        with storage(f"write quarantine advice into {directory}"):
            if advice.exists():
                return
            directory.mkdir(exist_ok=True)
            temporary = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            try:
                temporary.write_bytes(encode_advice(digest, reason, by))
                temporary.rename(advice)
            finally:
                temporary.unlink(missing_ok=True)

    def quarantined(self) -> dict[str, str]:
        with storage(f"read quarantine advice of {self.path}"):
            try:
                directory = os.open(self.path / QUARANTINE_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return {}
            try:
                names = os.listdir(directory)  # noqa: PTH208  (an open directory cannot be swapped for a link)
                digests = {digest for name in names if (digest := advised_digest(name))}
                # Advice never changes, so that each file is read once.
                self._advice = {
                    d: self._advice[d] if d in self._advice else _read_advice(directory, d) for d in digests
                }
            finally:
                os.close(directory)
        return {digest: reason for digest, reason in self._advice.items() if reason is not None}

    def _list(self) -> "_Listing":
        listing = _Listing()
        with storage(f"list {self.path}"):
            try:
                entries = os.scandir(self.path)
            except FileNotFoundError:
                return listing
            with entries:
                for entry in entries:
                    listing.add(entry)
        return listing


def _read_advice(directory: int, digest: str) -> str | None:
    try:
        data = read_regular_file(directory, advice_name(digest), MAX_ADVICE_BYTES)
    except (OSError, NotRegularFileError):
        return None
    advice = decode_advice(data, digest)
    return advice.reason if advice else None


@dataclass
class _Listing:
    """What one look into the store's directory shows. ``highest`` is -1 where no number was ever used."""

    versions: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    temporaries: list[str] = field(default_factory=list)
    trash: list[str] = field(default_factory=list)
    highest: int = -1

    def add(self, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if (version := parse_version_name(name)) is not None:
            self.highest = max(self.highest, version)
            if entry.is_dir(follow_symlinks=False):
                self.versions.append(version)
        elif (mark := parse_mark_name(name)) is not None:
            self.marks.append(mark)
            self.highest = max(self.highest, mark)
        elif name.startswith(TEMPORARY_PREFIX):
            self.temporaries.append(name)
        elif name.startswith(_TRASH_PREFIX):
            self.trash.append(name)


def open_store(where: str | Path) -> PolicyStore:
    """The store at a path or an fsspec URL (``s3://bucket/policies``). Raises ConfigurationError for neither."""
    text = str(where)
    if not text:
        raise ConfigurationError("expected a directory or a URL for the policy store, found an empty text")
    local = re.sub(r"^(file|local)://", "", text)
    if "://" not in local:
        return LocalPolicyStore(Path(local).expanduser())
    from shared.remote_policy_store import RemotePolicyStore

    return RemotePolicyStore(text)
