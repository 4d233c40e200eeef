"""A version in a local directory. Reads are bounded and never follow links."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ManifestError, VersionNotFound
from shared.files.bounded_read import NotRegularFileError, hash_regular_file, read_regular_file, read_regular_file_into
from shared.files.buffer_pool import BufferPool, Data
from shared.files.digests import DigestName
from shared.files.storage_errors import store_unavailable
from shared.policy.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from shared.store.version_files import VersionFiles, checked_manifest, parse_version_name, version_not_found


def open_version_directory(path: Path) -> VersionFiles:
    """Open a version by its path. Raises VersionNotFound, ManifestError or StoreUnavailable."""
    resolved = Path(os.path.realpath(path))  # unlike Path.resolve, leaves loops of links for open_version to refuse
    return open_version(resolved, parse_version_name(resolved.name))


def open_version(path: Path, version: int | None) -> VersionFiles:
    """Open the directory ``path``, which must not be a link and must contain ``version`` (if given)."""
    manifest_bytes = _read_manifest(path)
    return VersionDirectory(path, checked_manifest(manifest_bytes, version, str(path)), manifest_bytes)


@dataclass(frozen=True)
class VersionDirectory(VersionFiles):
    """``VersionFiles`` of a local directory."""

    path: Path
    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)

    @property
    def location(self) -> str:
        return str(self.path)

    def _read_once(self, name: str, size_bytes: int) -> bytes:
        with self._open_for(name) as directory:
            return read_regular_file(directory, name, size_bytes)

    def _read_pieces(self, name: str, size_bytes: int, on_piece: Callable[[Data], None], memory: BufferPool) -> Data:
        with self._open_for(name) as directory:
            return read_regular_file_into(memory, directory, name, size_bytes, on_piece)

    def _hash(self, name: str, size_bytes: int, digest: DigestName) -> tuple[str, int]:
        with self._open_for(name) as directory:
            return hash_regular_file(directory, name, size_bytes, digest)

    def _has_manifest(self) -> bool:
        return os.path.lexists(self.path / MANIFEST_NAME)

    @contextmanager
    def _open_for(self, name: str) -> Iterator[int]:
        try:
            with _open_directory(self.path) as directory:
                yield directory
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_unavailable(error, f"read {self.path / name}") from error


def _read_manifest(path: Path) -> bytes:
    manifest_path = path / MANIFEST_NAME
    try:
        with _open_directory(path) as directory:
            return read_regular_file(directory, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    except NotRegularFileError as error:
        raise ManifestError(f"{manifest_path}: expected a regular file, found {error}") from error
    except FileNotFoundError as error:
        raise VersionNotFound(f"{manifest_path}: does not exist, so there is no version here yet") from error
    except OSError as error:
        raise store_unavailable(error, f"read {manifest_path}") from error


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    """Yield a descriptor of the directory of a version. Raises VersionNotFound if there is none, or a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise version_not_found(str(path)) from error
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise VersionNotFound(f"{path}: a version is a directory; found a link or a file there") from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
