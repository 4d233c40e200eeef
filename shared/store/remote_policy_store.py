"""A policy store on any file system of fsspec: S3, GCS, Azure, SFTP, memory.

A version is committed by its manifest, which is uploaded last. Its number is claimed first, by the exclusive creation
of the high-water mark; on a backend without exclusive creation only one publisher at a time is safe.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from shared.errors import ManifestError, StoreError, StoreUnavailable
from shared.files.bounded_read import NotRegularFileError
from shared.policy.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileEntry, Manifest
from shared.store.remote_files import RemoteFiles
from shared.store.store_notes import NOTES_DIRECTORY, QUARANTINE_DIRECTORY, Quarantine, RemoteNotes
from shared.store.version_files import (
    MAX_NUMBER,
    DescribeVersion,
    Retention,
    Sign,
    VersionFiles,
    checked_manifest,
    describe_files,
    describe_version,
    mark_name,
    parse_mark_name,
    parse_version_name,
    version_name,
    version_not_found,
)
from shared.store.version_numbers import IgnoredNumbers, StoreNumbers, plausible_numbers


class RemotePolicyStore:
    """``PolicyStore`` at an fsspec URL such as ``s3://bucket/policies``. fsspec finds the credentials.

    An upload is abandoned when this object has seen no change of its files for ``abandon_after_s``. Raises
    ConfigurationError for a URL without an installed backend.
    """

    watch_path: Path | None = None

    def __init__(self, url: str, *, abandon_after_s: float = 600.0) -> None:
        self._url = url.rstrip("/")
        self._files = RemoteFiles(url)
        self.notes = RemoteNotes(self._files, NOTES_DIRECTORY)
        self._quarantine = Quarantine(RemoteNotes(self._files, QUARANTINE_DIRECTORY))
        self._abandon_after_s = abandon_after_s
        self._ignored = IgnoredNumbers(self)
        self._committed: set[int] = set()
        self._uploading: set[int] = set()
        self._uncommitted: dict[int, tuple[frozenset[str], float]] = {}

    def __repr__(self) -> str:
        return f"RemotePolicyStore({self._url!r})"

    def __str__(self) -> str:
        return self._url

    def versions(self) -> list[int]:
        return self._committed_among(self._numbers().versions)

    def newest(self) -> int | None:
        return max(self.versions(), default=None)

    def open(self, version: int) -> VersionFiles:
        directory = version_name(version)
        location = f"{self._url}/{directory}"
        try:
            manifest_bytes = self._files.read(f"{directory}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            self._committed.discard(version)
            raise version_not_found(location) from error
        except NotRegularFileError as error:
            raise ManifestError(f"{location}/{MANIFEST_NAME}: expected a regular file, found {error}") from error
        manifest = checked_manifest(manifest_bytes, version, location)
        return _RemoteVersion(self._files, self._url, directory, manifest, manifest_bytes)

    def publish(
        self,
        files: Mapping[str, bytes],
        describe: DescribeVersion,
        *,
        durable: bool = True,  # noqa: ARG002  an upload is durable when it returns
        sign: Sign | None = None,
    ) -> Manifest:
        entries = describe_files(files)
        version = self._next_version()
        manifest, stated = describe_version(version, entries, describe, sign)
        self._files.make_directory("")
        while not self._claim(version):
            version = self._next_version()
            manifest, stated = describe_version(version, entries, describe, sign)
        self._uploading.add(version)
        try:
            self._upload(version_name(version), files, entries, stated)
        finally:
            self._uploading.discard(version)
        return manifest

    def make_durable(self, version: int) -> None:
        """Do nothing: an upload is durable when it returns."""

    def _claim(self, version: int) -> bool:
        """Create the mark of ``version``; return False if another publisher may have the number."""
        is_ours = self._files.create(mark_name(version))
        numbers = self._numbers()
        highest = numbers.highest
        for lower in numbers.marks:
            if lower < highest and highest in numbers.marks:
                self._files.remove(mark_name(lower))
        return is_ours and highest == version and version not in numbers.versions

    def _upload(
        self, directory: str, files: Mapping[str, bytes], entries: dict[str, FileEntry], stated: Mapping[str, bytes]
    ) -> None:
        self._files.make_directory(directory)
        for name, data in files.items():
            self._files.write(f"{directory}/{name}", data)
        # A sweeper may have removed files of this upload, which must not get a manifest then.
        found = {name: details.get("size") for name, details in self._files.list(directory).items()}
        if missing := [name for name, entry in entries.items() if found.get(name) != entry.size_bytes]:
            raise StoreUnavailable(
                f"publish again: uploaded {', '.join(missing)} to {self._url}/{directory}, but it is missing or changed"
            )
        for name, data in stated.items():  # the manifest last
            self._files.write(f"{directory}/{name}", data)

    def sweep(self, retention: Retention) -> list[int]:
        directories = self._numbers().versions
        committed = self._committed_among(directories)
        swept = retention.expendable(committed)
        for version in swept:
            self._remove_version(version)
        for version in set(directories) - set(committed) - self._uploading:
            if self._is_abandoned(version):
                logger.info("abandoned upload swept store={} directory={}", self._url, version_name(version))
                self._remove_version(version)
        return swept

    def _remove_version(self, version: int) -> None:
        """Remove a version, its manifest first, so that readers never open a part."""
        self._committed.discard(version)
        self._uncommitted.pop(version, None)
        self._files.remove(f"{version_name(version)}/{MANIFEST_NAME}")
        self._files.remove_directory(version_name(version))

    def _is_abandoned(self, version: int) -> bool:
        """Use the monotonic clock of this machine: another clock stamps the files."""
        names = frozenset(self._files.list(version_name(version)))
        now_s = time.monotonic()
        seen_names, since_s = self._uncommitted.get(version, (names, now_s))
        if seen_names != names:
            since_s = now_s
        self._uncommitted[version] = (names, since_s)
        return now_s - since_s >= self._abandon_after_s

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        self._quarantine.add(digest, reason, by)

    def quarantined(self) -> dict[str, str]:
        return self._quarantine.reasons()

    def _numbers(self) -> StoreNumbers:
        """Return the numbers with a directory, committed or not, and those with a mark, from one listing."""
        names = self._files.list("")
        directories = (
            n
            for name, found in names.items()
            if (n := parse_version_name(name)) is not None and found["type"] == "directory"
        )
        marks = (n for name in names if (n := parse_mark_name(name)) is not None)
        return self._ignored.report(plausible_numbers(directories, marks))

    def _next_version(self) -> int:
        highest = self._numbers().highest
        if highest >= MAX_NUMBER:
            raise StoreError(f"use a new store: the highest used number of {self}, {highest}, has no successor")
        return highest + 1

    def _committed_among(self, directories: Sequence[int]) -> list[int]:
        """Return those with a manifest. Each is looked up once: commits are final."""
        committed = self._committed.intersection(directories)
        for version in set(directories) - committed:
            if self._files.exists(f"{version_name(version)}/{MANIFEST_NAME}"):
                committed.add(version)
        self._committed = committed
        return sorted(committed)


@dataclass(frozen=True)
class _RemoteVersion(VersionFiles):
    files: RemoteFiles
    url: str
    directory: str
    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)

    @property
    def location(self) -> str:
        return f"{self.url}/{self.directory}"

    def _read_once(self, name: str, size_bytes: int) -> bytes:
        return self.files.read(f"{self.directory}/{name}", size_bytes)

    def _has_manifest(self) -> bool:
        return self.files.exists(f"{self.directory}/{MANIFEST_NAME}")
