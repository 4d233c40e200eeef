"""What every store agrees on about one version: its names, its manifest, and that bytes are verified before use."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from shared.errors import DigestMismatch, ManifestError
from shared.files.background_sha256 import BackgroundSha256
from shared.files.buffer_pool import BufferPool, Data
from shared.policy.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileEntry, Manifest, decode_manifest, encode_manifest

# One name a number. Eighteen digits at most: a 64-bit integer in any language that reads a manifest.
_VERSION_NAME = re.compile(r"v([0-9]{6}|[1-9][0-9]{6,17})")
_MARK_PREFIX = ".highest-"
_HASHED_APART_BYTES = 2**22

DescribeVersion = Callable[[int, dict[str, FileEntry]], Manifest]
Sign = Callable[[bytes], bytes]
"""Gives the signature of a manifest's bytes: ``SigningKey.sign``."""
Meanwhile = Callable[[Data], None]
"""Is given bytes that are still being verified: it may get something ready, but run nothing and never raise."""
ReadPieces = Callable[[FileEntry, Callable[[Data], None]], Data]
"""Fetches a file as an entry describes it, and tells of all that it will return, in order."""
_D = TypeVar("_D", bytes, Data)


class VersionFiles(Protocol):
    """An opened version: its manifest has been read and checked, its files are read and verified one by one."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def manifest_bytes(self) -> bytes:
        """``manifest.json`` as it was found, for signatures."""
        ...

    @property
    def location(self) -> str:
        """Where the version lies, for messages and logs."""
        ...

    def read_signature(self) -> bytes | None:
        """``manifest.sig`` as it lies there now, one byte too many at most; None where the version is not signed.

        Raises NotAuthentic for a link, a pipe or a device, TransientLoadError or StoreUnavailable where it could not be
        read, VersionNotFound where the whole version has been swept meanwhile.
        """
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file, verified against the manifest's size and SHA-256.

        A mismatch is read once more before it is believed. Raises DigestMismatch (also for a link, a pipe or a device),
        ManifestError where the manifest has no such file, TransientLoadError where it is missing or could not be read,
        VersionNotFound where the whole version has been swept meanwhile.
        """
        ...

    def read_ahead(self, name: str, meanwhile: Meanwhile, memory: BufferPool) -> Data:
        """As ``read``; of a large file the bytes may lie in ``memory``, and are hashed by another thread.

        ``meanwhile`` is given them before that has come to its end: they are the right ones if they are the object that
        is returned.
        """
        ...


def version_name(version: int) -> str:
    """``v000042``: the directory of version 42."""
    return f"v{version:06d}"


def parse_version_name(name: str) -> int | None:
    """42 for ``v000042``; None for every name that ``version_name`` does not make."""
    match = _VERSION_NAME.fullmatch(name)
    return int(match[1]) if match else None


def mark_name(version: int) -> str:
    """``.highest-000042``: the high-water mark, made before version 42 is committed."""
    return f"{_MARK_PREFIX}{version:06d}"


def parse_mark_name(name: str) -> int | None:
    """42 for ``.highest-000042``, None for any other name."""
    return parse_version_name(f"v{name.removeprefix(_MARK_PREFIX)}") if name.startswith(_MARK_PREFIX) else None


def describe_files(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Size and SHA-256 of each file, as the manifest lists them."""
    return {name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}


def describe_version(
    version: int, entries: dict[str, FileEntry], describe: DescribeVersion, sign: Sign | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest that ``describe`` gives for ``version``, as every reader will decode it, and what states it.

    That is ``manifest.json``, and before it ``manifest.sig`` where there is somebody to ``sign`` those bytes. Raises
    ManifestError where a reader would refuse it: before anything is written, so no file name leads elsewhere.
    """
    described = describe(version, dict(entries))
    if described.version != version or described.files != entries:
        raise ManifestError(
            f"expected a manifest of version {version} with the files {sorted(entries)}; "
            f"found one of version {described.version} with {sorted(described.files)}"
        )
    manifest_bytes = encode_manifest(described)
    signature = {} if sign is None else {SIGNATURE_NAME: sign(manifest_bytes)}
    return decode_manifest(manifest_bytes), {**signature, MANIFEST_NAME: manifest_bytes}


def checked_manifest(manifest_bytes: bytes, version: int | None, location: str) -> Manifest:
    """The manifest found at ``location``, which must be of ``version``, where that is given. Raises ManifestError."""
    try:
        manifest = decode_manifest(manifest_bytes)
    except ManifestError as error:
        raise ManifestError(f"{location}/{MANIFEST_NAME}: {error}") from error
    if version is not None and manifest.version != version:
        raise ManifestError(f"{location}: expected a manifest of version {version}, found one of {manifest.version}")
    return manifest


def read_verified(manifest: Manifest, name: str, location: str, read_once: Callable[[FileEntry], bytes]) -> bytes:
    """The bytes of file ``name`` of the version at ``location``, fetched by ``read_once`` and verified; two tries."""
    entry = _entry(manifest, name, location)
    found = read_once(entry)
    if _is(found, entry):
        return found
    return _read_again(entry, name, location, read_once)


def is_read_ahead(manifest: Manifest, name: str) -> bool:
    """Whether a file is so large that hashing it takes longer than starting a thread for it, by far."""
    return name in manifest.files and manifest.files[name].size_bytes >= _HASHED_APART_BYTES


def read_verified_ahead(
    manifest: Manifest, name: str, location: str, read_pieces: ReadPieces, meanwhile: Meanwhile
) -> Data:
    """See ``VersionFiles.read_ahead``; of a file that ``is_read_ahead``."""
    entry = _entry(manifest, name, location)
    with BackgroundSha256() as hashing:
        found = read_pieces(entry, hashing.update)
        if len(found) == entry.size_bytes:
            if hashing.is_apart:
                meanwhile(found)
            if hashing.hexdigest() == entry.sha256:
                return found
    del found  # so that its memory can be used again
    return _read_again(entry, name, location, lambda entry: read_pieces(entry, _let_be))


def _let_be(_piece: Data) -> None:
    pass


def _entry(manifest: Manifest, name: str, location: str) -> FileEntry:
    entry = manifest.files.get(name)
    if entry is None:
        raise ManifestError(f"{location}: the manifest lists no file {name!r}; it lists {sorted(manifest.files)}")
    return entry


def _read_again(entry: FileEntry, name: str, location: str, read_once: Callable[[FileEntry], _D]) -> _D:
    """One flipped bit on its way here must not condemn a version. Raises DigestMismatch for the second."""
    found = read_once(entry)
    if _is(found, entry):
        return found
    if len(found) != entry.size_bytes:
        how_many = "more" if len(found) > entry.size_bytes else str(len(found))
        raise DigestMismatch(f"{location}/{name}: expected {entry.size_bytes} bytes, found {how_many}; read twice")
    sha256 = hashlib.sha256(found).hexdigest()
    raise DigestMismatch(f"{location}/{name}: expected SHA-256 {entry.sha256}, found {sha256}; read twice")


def _is(data: Data, entry: FileEntry) -> bool:
    return len(data) == entry.size_bytes and hashlib.sha256(data).hexdigest() == entry.sha256
