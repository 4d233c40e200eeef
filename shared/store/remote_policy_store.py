"""A policy store on anything that fsspec reaches: S3, GCS, Azure, SFTP, memory.

There is no rename to commit with, so a version's files are uploaded into its own directory and its manifest last: a
version exists when its manifest does. Its number is claimed first, by creating the high-water mark exclusively (as a
local store does). Where a backend cannot create exclusively, only one publisher at a time is safe.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loguru import logger

from shared.errors import (
    DigestMismatch,
    ManifestError,
    NotAuthentic,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
)
from shared.files.bounded_read import NotRegularFileError
from shared.files.buffer_pool import BufferPool, Data
from shared.policy.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, FileEntry, Manifest
from shared.policy.signing import SIGNATURE_BYTES
from shared.store.quarantine_advice import (
    MAX_ADVICE_BYTES,
    QUARANTINE_DIRECTORY,
    advice_name,
    advised_digest,
    decode_advice,
    encode_advice,
)
from shared.store.remote_files import RemoteFiles
from shared.store.retention import Retention
from shared.store.store_notes import RemoteNotes
from shared.store.version_files import (
    DescribeVersion,
    Meanwhile,
    Sign,
    VersionFiles,
    checked_manifest,
    describe_files,
    describe_version,
    is_read_ahead,
    mark_name,
    parse_mark_name,
    parse_version_name,
    read_verified,
    read_verified_ahead,
    version_name,
)


class RemotePolicyStore:
    """``PolicyStore`` at an fsspec URL such as ``s3://bucket/policies``; credentials are found as fsspec finds them.

    An upload whose files have not changed for ``abandon_after_s``, as seen by this object, is swept as abandoned.
    Raises ConfigurationError for a URL that no installed backend understands.
    """

    watch_path: Path | None = None

    def __init__(self, url: str, *, abandon_after_s: float = 600.0) -> None:
        self._url = url.rstrip("/")
        self._files = RemoteFiles(url)
        self.notes = RemoteNotes(self._files)
        self._abandon_after_s = abandon_after_s
        self._committed: set[int] = set()
        self._uploading: set[int] = set()
        self._uncommitted: dict[int, tuple[frozenset[str], float]] = {}
        self._advice: dict[str, str | None] = {}

    def __repr__(self) -> str:
        return f"RemotePolicyStore({self._url!r})"

    def __str__(self) -> str:
        """Where it is, for messages."""
        return self._url

    def versions(self) -> list[int]:
        return self._committed_among(self._numbers()[0])

    def newest(self) -> int | None:
        return max(self.versions(), default=None)

    def open(self, version: int) -> VersionFiles:
        directory = version_name(version)
        location = f"{self._url}/{directory}"
        try:
            manifest_bytes = self._files.read(f"{directory}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            self._committed.discard(version)
            raise _not_found(location) from error
        except NotRegularFileError as error:
            raise ManifestError(f"{location}/{MANIFEST_NAME}: expected a regular file, found {error}") from error
        return _RemoteVersion(
            self._files, directory, location, checked_manifest(manifest_bytes, version, location), manifest_bytes
        )

    def publish(
        self,
        files: Mapping[str, bytes],
        describe: DescribeVersion,
        *,
        durable: bool = True,  # noqa: ARG002  an object store answers when it holds what was uploaded
        sign: Sign | None = None,
    ) -> Manifest:
        entries = describe_files(files)
        version = self._highest() + 1
        manifest, stated = describe_version(version, entries, describe, sign)
        self._files.make_directory("")
        while not self._claim(version):
            version = self._highest() + 1
            manifest, stated = describe_version(version, entries, describe, sign)
        self._uploading.add(version)
        try:
            self._upload(version_name(version), files, entries, stated)
        finally:
            self._uploading.discard(version)
        return manifest

    def make_durable(self, version: int) -> None:
        """An object store answers when it holds what was uploaded."""

    def _claim(self, version: int) -> bool:
        """Make the mark of ``version``. False where the number is another's, or may have been: the listing afterwards
        shows whether anybody had gone beyond it before the mark was made."""
        is_ours = self._files.create(mark_name(version))
        directories, marks = self._numbers()
        highest = max([version, *directories, *marks])
        for lower in marks:
            if lower < highest and highest in marks:
                self._files.remove(mark_name(lower))
        return is_ours and highest == version and version not in directories

    def _upload(
        self,
        directory: str,
        files: Mapping[str, bytes],
        entries: dict[str, FileEntry],
        stated: Mapping[str, bytes],
    ) -> None:
        self._files.make_directory(directory)
        for name, data in files.items():
            self._files.write(f"{directory}/{name}", data)
        self._check_uploaded(directory, entries)
        for name, data in stated.items():  # the manifest comes last
            self._files.write(f"{directory}/{name}", data)

    def _check_uploaded(self, directory: str, entries: Mapping[str, FileEntry]) -> None:
        """A sweeper that took us for dead has removed what we wrote: then there must be no manifest."""
        found = {name: details.get("size") for name, details in self._files.list(directory).items()}
        if missing := [name for name, entry in entries.items() if found.get(name) != entry.size_bytes]:
            raise StoreUnavailable(
                f"{self._url}/{directory}: uploaded {', '.join(missing)}, but found it otherwise; publish again"
            )

    def sweep(self, retention: Retention) -> list[int]:
        directories = self._numbers()[0]
        committed = self._committed_among(directories)
        swept = retention.expendable(committed)
        for version in swept:
            self._remove_version(version)
        for version in set(directories) - set(committed) - self._uploading:
            if self._is_abandoned(version):
                logger.info("{}: sweeping the abandoned upload {}", self._url, version_name(version))
                self._remove_version(version)
        return swept

    def _remove_version(self, version: int) -> None:
        """The manifest first, so that no reader opens what is half gone."""
        self._committed.discard(version)
        self._uncommitted.pop(version, None)
        self._files.remove(f"{version_name(version)}/{MANIFEST_NAME}")
        self._files.remove_directory(version_name(version))

    def _is_abandoned(self, version: int) -> bool:
        """By this machine's monotonic clock: the clock that stamps the files is another's."""
        names = frozenset(self._files.list(version_name(version)))
        now_s = time.monotonic()
        seen_names, since_s = self._uncommitted.get(version, (names, now_s))
        if seen_names != names:
            since_s = now_s
        self._uncommitted[version] = (names, since_s)
        return now_s - since_s >= self._abandon_after_s

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        name = f"{QUARANTINE_DIRECTORY}/{advice_name(digest)}"
        if self._files.exists(name):
            return
        self._files.make_directory(QUARANTINE_DIRECTORY)
        self._files.write(name, encode_advice(digest, reason, by))

    def quarantined(self) -> dict[str, str]:
        digests = {digest for name in self._files.list(QUARANTINE_DIRECTORY) if (digest := advised_digest(name))}
        self._advice = {d: self._advice[d] if d in self._advice else self._read_advice(d) for d in digests}
        return {digest: reason for digest, reason in self._advice.items() if reason is not None}

    def _read_advice(self, digest: str) -> str | None:
        try:
            data = self._files.read(f"{QUARANTINE_DIRECTORY}/{advice_name(digest)}", MAX_ADVICE_BYTES)
        except (FileNotFoundError, NotRegularFileError):
            return None
        advice = decode_advice(data, digest)
        return advice.reason if advice else None

    def _numbers(self) -> tuple[list[int], list[int]]:
        """The numbers that have a directory, committed or not, and the numbers that have a mark: one listing."""
        names = self._files.list("")
        directories = [
            n
            for name, found in names.items()
            if (n := parse_version_name(name)) is not None and found["type"] == "directory"
        ]
        return directories, [n for name in names if (n := parse_mark_name(name)) is not None]

    def _highest(self) -> int:
        directories, marks = self._numbers()
        return max([*directories, *marks], default=-1)

    def _committed_among(self, directories: list[int]) -> list[int]:
        """Those that have a manifest. What was committed stays so until its directory is gone: it is asked for once."""
        committed = self._committed.intersection(directories)
        for version in set(directories) - committed:
            if self._files.exists(f"{version_name(version)}/{MANIFEST_NAME}"):
                committed.add(version)
        self._committed = committed
        return sorted(committed)


@dataclass(frozen=True)
class _RemoteVersion:
    """``VersionFiles`` of a directory in a remote store."""

    files: RemoteFiles
    directory: str
    location: str
    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)

    def read(self, name: str) -> bytes:
        return read_verified(self.manifest, name, self.location, partial(self._read_once, name))

    def read_ahead(self, name: str, meanwhile: Meanwhile, memory: BufferPool) -> Data:  # noqa: ARG002  fsspec's own
        if not is_read_ahead(self.manifest, name):
            return self.read(name)

        def read_pieces(entry: FileEntry, on_piece: Callable[[Data], None]) -> Data:
            found = self._read_once(name, entry)
            on_piece(found)
            return found

        return read_verified_ahead(self.manifest, name, self.location, read_pieces, meanwhile)

    def read_signature(self) -> bytes | None:
        name = f"{self.directory}/{SIGNATURE_NAME}"
        try:
            return self.files.read(name, SIGNATURE_BYTES)
        except NotRegularFileError as error:
            raise NotAuthentic(f"{self.location}/{SIGNATURE_NAME}: expected a regular file, found {error}") from error
        except FileNotFoundError as error:
            self._require_manifest(error)
            return None
        except StoreUnavailable as error:
            raise TransientLoadError(str(error)) from error

    def _read_once(self, name: str, entry: FileEntry) -> bytes:
        try:
            return self._read_regular(name, entry)
        except StoreUnavailable as error:
            raise TransientLoadError(str(error)) from error

    def _read_regular(self, name: str, entry: FileEntry) -> bytes:
        try:
            return self.files.read(f"{self.directory}/{name}", entry.size_bytes)
        except NotRegularFileError as error:
            raise DigestMismatch(f"{self.location}/{name}: expected a regular file, found {error}") from error
        except FileNotFoundError as error:
            self._require_manifest(error)
            raise TransientLoadError(f"{self.location}/{name}: the manifest lists it, but it is not there") from error

    def _require_manifest(self, error: FileNotFoundError) -> None:
        """Raise VersionNotFound where the whole version is gone, and not one file of it."""
        if not self.files.exists(f"{self.directory}/{MANIFEST_NAME}"):
            raise _not_found(self.location) from error


def _not_found(location: str) -> VersionNotFound:
    return VersionNotFound(f"{location}: no such version; it was never published, or has been swept meanwhile")
