"""Rules that all stores share: names, manifests and retention of versions, and verification of the bytes read."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import msgspec

from shared.errors import (
    ConfigurationError,
    DigestMismatch,
    ManifestError,
    NotAuthentic,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
)
from shared.files.background_digest import BackgroundDigest
from shared.files.bounded_read import NotRegularFileError
from shared.files.buffer_pool import BufferPool, Data
from shared.files.digests import DIGEST_TITLES, DigestName, digest_of, name_for
from shared.policy.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
    format_of,
)
from shared.policy.signing import SIGNATURE_BYTES

# One name for each number, of at most 18 digits: a 64-bit integer in every language that reads a manifest.
_VERSION_NAME = re.compile(r"v([0-9]{6}|[1-9][0-9]{6,17})")
MAX_NUMBER = 10**18 - 1
_MARK_PREFIX = ".highest-"
_HASHED_APART_BYTES = 2**22  # hashing that much takes far longer than starting a thread

DescribeVersion = Callable[[int, dict[str, FileEntry]], Manifest]
"""Return the manifest of the version with this number and these files."""
Sign = Callable[[bytes], bytes]
"""Return the signature of the bytes of a manifest (``SigningKey.sign``)."""
Meanwhile = Callable[[Data], None]
"""Prepare something from bytes that are still being verified. It must not run them, nor raise."""
_D = TypeVar("_D", bytes, Data)
_T = TypeVar("_T")


class VersionFiles(ABC):
    """An opened version. Its manifest is checked; its files are read and verified one by one.

    Subclasses fetch the bytes. ``manifest_bytes`` is the content of ``manifest.json``, which a signature covers.
    """

    manifest: Manifest
    manifest_bytes: bytes

    @property
    @abstractmethod
    def location(self) -> str:
        """Path or URL, for messages."""

    @abstractmethod
    def _read_once(self, name: str, size_bytes: int) -> bytes:
        """Read at most ``size_bytes + 1`` bytes of a file.

        Raises FileNotFoundError, NotRegularFileError (a link, a pipe, a device), StoreUnavailable or VersionNotFound.
        """

    def _read_pieces(self, name: str, size_bytes: int, on_piece: Callable[[Data], None], memory: BufferPool) -> Data:  # noqa: ARG002
        """Read like ``_read_once``, perhaps into ``memory``; pass all that is returned to ``on_piece``, in order."""
        found = self._read_once(name, size_bytes)
        on_piece(found)
        return found

    def _hash(self, name: str, size_bytes: int, digest: DigestName) -> tuple[str, int]:
        """Return the digest in hexadecimal and the length of what ``_read_once`` returns. Raises like it."""
        found = self._read_once(name, size_bytes)
        return digest_of(digest, found), len(found)

    @cached_property
    def _verified(self) -> set[str]:
        """Names of the files whose content was verified once."""
        return set()

    def verify_others(self) -> None:
        """Verify each file that the manifest lists and that was not read yet, as ``read`` does. Raises like ``read``.

        A version acts only if all of it is as its publisher stated, also the programs that this machine does not run.
        """
        for name in sorted(self.manifest.files.keys() - self._verified):
            entry = self.manifest.files[name]
            found = self._fetch(name, partial(self._hash, name, entry.size_bytes, entry.digest_name))
            if found == (entry.hexdigest, entry.size_bytes):
                self._verified.add(name)
            else:
                self.read(name)

    @contextmanager
    def verifying_others(self) -> Iterator[None]:
        """Verify the files that the body does not read, at its end; large ones on a thread, meanwhile."""
        others = self.manifest.files.keys() - self._verified
        if sum(self.manifest.files[name].size_bytes for name in others) < _HASHED_APART_BYTES:
            yield
            self.verify_others()
            return
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
            verifying = None
            with suppress(RuntimeError):  # no thread available at the moment
                verifying = pool.submit(self.verify_others)
            yield
            if verifying is not None:
                verifying.result()
            self.verify_others()

    @abstractmethod
    def _has_manifest(self) -> bool:
        """Return True if the manifest still exists: sweepers remove it first. Raises StoreUnavailable."""

    def read_signature(self) -> bytes | None:
        """Return at most one byte more of ``manifest.sig`` than a signature has, or None if there is no such file.

        Raises NotAuthentic for a link, a pipe or a device, TransientLoadError if it cannot be read, VersionNotFound if
        the version was swept meanwhile.
        """
        try:
            return self._read_once(SIGNATURE_NAME, SIGNATURE_BYTES)
        except NotRegularFileError as error:
            raise NotAuthentic(f"{self.location}/{SIGNATURE_NAME}: expected a regular file, found {error}") from error
        except FileNotFoundError as error:
            self._require_manifest(error)
            return None
        except StoreUnavailable as error:
            raise TransientLoadError(str(error)) from error

    def read(self, name: str) -> bytes:
        """Return the content of one file, verified against size and digest of the manifest.

        After a mismatch it is read once more. Raises DigestMismatch (also for a link, a pipe or a device),
        ManifestError if the manifest does not list the file, TransientLoadError if it is missing or cannot be read,
        VersionNotFound if the version was swept meanwhile.
        """
        entry = self._entry(name)
        found = self._fetch(name, lambda: self._read_once(name, entry.size_bytes))
        if _matches(found, entry):
            self._verified.add(name)
            return found
        return self._matching(name, entry, self._fetch(name, lambda: self._read_once(name, entry.size_bytes)))

    def read_ahead(self, name: str, meanwhile: Meanwhile, memory: BufferPool) -> Data:
        """Return the content like ``read``; large files may be read into ``memory`` and are hashed by another thread.

        ``meanwhile`` receives the bytes before they are verified. They are valid if they are the returned object.
        """
        entry = self._entry(name)
        if entry.size_bytes < _HASHED_APART_BYTES:
            return self.read(name)
        with BackgroundDigest(entry.digest_name) as hashing:
            found = self._fetch(name, lambda: self._read_pieces(name, entry.size_bytes, hashing.update, memory))
            if len(found) == entry.size_bytes:
                if hashing.is_apart:
                    meanwhile(found)
                if hashing.hexdigest() == entry.hexdigest:
                    self._verified.add(name)
                    return found
        del found  # its memory can be used again
        again = self._fetch(name, lambda: self._read_pieces(name, entry.size_bytes, lambda _: None, memory))
        return self._matching(name, entry, again)

    def _entry(self, name: str) -> FileEntry:
        files = self.manifest.files
        if name not in files:
            raise ManifestError(f"{self.location}: the manifest lists no file {name!r}; it lists {sorted(files)}")
        return files[name]

    def _fetch(self, name: str, read: Callable[[], _T]) -> _T:
        """Return the bytes that ``read`` returns; map its errors to those of ``self.read``."""
        try:
            return read()
        except NotRegularFileError as error:
            raise DigestMismatch(f"{self.location}/{name}: expected a regular file, found {error}") from error
        except FileNotFoundError as error:
            self._require_manifest(error)
            raise TransientLoadError(f"{self.location}/{name}: the manifest lists it, but it is not there") from error
        except StoreUnavailable as error:
            raise TransientLoadError(str(error)) from error

    def _matching(self, name: str, entry: FileEntry, found: _D) -> _D:
        """Return the bytes of a second read: one flipped bit on the way must not quarantine a version."""
        if _matches(found, entry):
            self._verified.add(name)
            return found
        if len(found) != entry.size_bytes:
            size = "more" if len(found) > entry.size_bytes else str(len(found))
            raise DigestMismatch(f"{self.location}/{name}: expected {entry.size_bytes} bytes, found {size}; read twice")
        title, digest = DIGEST_TITLES[entry.digest_name], digest_of(entry.digest_name, found)
        raise DigestMismatch(f"{self.location}/{name}: expected {title} {entry.hexdigest}, found {digest}; read twice")

    def _require_manifest(self, error: FileNotFoundError) -> None:
        try:
            exists = self._has_manifest()
        except StoreUnavailable as unavailable:
            raise TransientLoadError(str(unavailable)) from unavailable
        if not exists:
            raise version_not_found(self.location) from error


def _matches(data: Data, entry: FileEntry) -> bool:
    return len(data) == entry.size_bytes and digest_of(entry.digest_name, data) == entry.hexdigest


def version_not_found(location: str) -> VersionNotFound:
    """Return the error about a version that is not, or no longer, at ``location``."""
    return VersionNotFound(f"{location}: no such version; it was never published, or was swept meanwhile")


def version_name(version: int) -> str:
    """Return ``v000042``, the name of the directory of version 42."""
    return f"v{version:06d}"


def parse_version_name(name: str) -> int | None:
    """Return 42 for ``v000042``, and None for every name that ``version_name`` does not return."""
    match = _VERSION_NAME.fullmatch(name)
    return int(match[1]) if match else None


def mark_name(version: int) -> str:
    """Return ``.highest-000042``, the high-water mark that is created before version 42 is committed."""
    return f"{_MARK_PREFIX}{version:06d}"


def parse_mark_name(name: str) -> int | None:
    """Return 42 for ``.highest-000042``, and None for any other name."""
    return parse_version_name(f"v{name.removeprefix(_MARK_PREFIX)}") if name.startswith(_MARK_PREFIX) else None


def describe_files(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Return the entries of new ``files``: with SHA-256, and for large files with BLAKE3."""
    return {name: file_entry(data) for name, data in files.items()}


def file_entry(data: bytes) -> FileEntry:
    """Return the entry of a new file."""
    digest_name, size_bytes = name_for(len(data)), len(data)
    digest = digest_of(digest_name, data)
    if digest_name == "blake3":
        return FileEntry(size_bytes=size_bytes, blake3=digest)
    return FileEntry(sha256=digest, size_bytes=size_bytes)


def describe_version(
    version: int, entries: dict[str, FileEntry], describe: DescribeVersion, sign: Sign | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of ``version`` as readers decode it, and the files that state it, in the order of writing.

    These are ``manifest.sig``, if ``sign`` is given, and ``manifest.json``. Raises ManifestError, before anything is
    written, if readers would refuse the manifest.
    """
    described = msgspec.structs.replace(describe(version, dict(entries)), format_version=format_of(entries))
    if described.version != version or described.files != entries:
        raise ManifestError(
            f"expected a manifest of version {version} with the files {sorted(entries)}; "
            f"found one of version {described.version} with {sorted(described.files)}"
        )
    manifest_bytes = encode_manifest(described)
    signature = {} if sign is None else {SIGNATURE_NAME: sign(manifest_bytes)}
    return decode_manifest(manifest_bytes), {**signature, MANIFEST_NAME: manifest_bytes}


def checked_manifest(manifest_bytes: bytes, version: int | None, location: str) -> Manifest:
    """Decode the manifest found at ``location``. Raises ManifestError, also if it is not of ``version`` (if given)."""
    try:
        manifest = decode_manifest(manifest_bytes)
    except ManifestError as error:
        raise ManifestError(f"{location}/{MANIFEST_NAME}: {error}") from error
    if version is not None and manifest.version != version:
        raise ManifestError(f"{location}: expected a manifest of version {version}, found one of {manifest.version}")
    return manifest


@dataclass(frozen=True)
class Retention:
    """Keep the newest ``keep_newest``, every number that ``keep_every`` divides, and all that are ``pinned``."""

    keep_newest: int = 20
    keep_every: int | None = None
    pinned: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.keep_newest < 1:
            raise ConfigurationError(f"keep_newest has to be at least 1, found {self.keep_newest}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ConfigurationError(f"keep_every has to be at least 1, or None; found {self.keep_every}")

    def expendable(self, versions: Sequence[int]) -> list[int]:
        """Return the ``versions`` that may be removed, ascending; never the newest."""
        every = self.keep_every
        older = sorted(versions)[: -self.keep_newest]
        return [v for v in older if v not in self.pinned and (every is None or v % every != 0)]
