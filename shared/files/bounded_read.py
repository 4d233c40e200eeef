"""Bounded reads of untrusted directories: regular files only, no links, no more than the expected size."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.files.buffer_pool import BufferPool
from shared.files.digests import DigestName, new_hasher

_SMALL_READ_BYTES = 2**16
_PIECE_BYTES = 2**22
_HASHED_PIECE_BYTES = 2**18  # it stays in the processor's cache
# A link may lead out of the directory, and opening a pipe without O_NONBLOCK blocks.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRegularFileError(Exception):
    """The path is not a regular file; the message says what it is. Callers map this error."""


def read_regular_file(directory: int, name: str, size_bytes: int) -> bytes:
    """Read at most ``size_bytes + 1`` bytes of ``name`` in an open directory; the extra byte shows a longer file.

    Raises NotRegularFileError for a link, a directory, a pipe, a socket or a device, and OSError.
    """
    with _regular_file(directory, name) as (descriptor, file_bytes):
        return _read_up_to(descriptor, size_bytes + 1, chunk_bytes=max(file_bytes + 1, _SMALL_READ_BYTES))


def read_regular_file_into(
    memory: BufferPool, directory: int, name: str, size_bytes: int, on_piece: Callable[[memoryview], None]
) -> memoryview:
    """Read as ``read_regular_file`` does, into ``memory``; call ``on_piece`` with each piece, a read-only view."""
    with _regular_file(directory, name) as (descriptor, file_bytes):
        room = memory.take(min(size_bytes, file_bytes) + 1)
        end = 0
        while count := os.readv(descriptor, [room[end : end + _PIECE_BYTES]]):
            on_piece(room[end : end + count].toreadonly())
            end += count
    return room[:end].toreadonly()


def hash_regular_file(directory: int, name: str, size_bytes: int, digest: DigestName) -> tuple[str, int]:
    """Return the digest and the length of what ``read_regular_file`` reads, with memory for one piece of it."""
    hasher, length = new_hasher(digest), 0
    with _regular_file(directory, name) as (descriptor, file_bytes):
        room = memoryview(bytearray(min(file_bytes + 1, _HASHED_PIECE_BYTES)))
        while length <= size_bytes and (count := os.readv(descriptor, [room])):
            hasher.update(room[:count])
            length += count
    return hasher.hexdigest(), length


@contextmanager
def _regular_file(directory: int, name: str) -> Iterator[tuple[int, int]]:
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotRegularFileError("a symbolic link") from error
        if error.errno == errno.ENXIO:
            raise NotRegularFileError("a socket or a device") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularFileError(_FILE_TYPES.get(stat.S_IFMT(status.st_mode), "something else"))
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


_FILE_TYPES = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def _read_up_to(descriptor: int, limit: int, chunk_bytes: int) -> bytes:
    """Read in chunks no larger than the file, since each read allocates and ``limit`` may be gigabytes too large."""
    chunks = []
    remaining = limit
    while remaining:
        chunk = os.read(descriptor, min(remaining, chunk_bytes))
        if not chunk:
            break
        chunks.append(chunk)
        remaining -= len(chunk)
        if remaining == 1 and len(chunk) < chunk_bytes:
            break  # the extra byte was requested too and does not exist
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
