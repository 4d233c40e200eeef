"""TorchScript archives: read strictly, and built again from the entries that were read.

A zip file can be two archives: ``zipfile`` follows the end record, torch's reader the offsets, and neither needs what
lies between. Only the form that torch writes is accepted here, in which every byte belongs to one entry, and torch
loads an archive that this module builds.
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shared.errors import ProgramError

MAX_ENTRIES = 100_000
MAX_PROGRAM_BYTES = 64 * 2**20

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = struct.Struct("<4s3I")
_UTF8, _DESCRIBED = 1 << 11, 1 << 3
_STORED, _DEFLATED = 0, 8
_PADDING = b"FB"
_FULL = 2**32 - 1
_PART = rb"(?!\.{1,2}(?:/|$))[ -.0-\[\]-~]+"  # printable ASCII without slashes, neither "." nor ".."
_NAME = re.compile(_PART + rb"(?:/" + _PART + rb")*")
# Entries that torch reads while it loads an archive. Debugging records and values seen while tracing are left out.
_LOADED = re.compile(
    r"data\.pkl|constants\.pkl|(\.data/)?version|byteorder|\.data/serialization_id|(data|constants)/\d+|code/.+\.py|\.format_version"
    r"|\.storage_alignment"
)

Entry = bytes | memoryview


class _Header(NamedTuple):
    """One entry of the central directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def read_archive(data: bytes) -> dict[str, Entry]:
    """Return the entries of an archive by their names in its one folder. Raises ProgramError."""
    try:
        headers = list(_directory(data))
        return _unpack(data, headers)
    except (struct.error, zlib.error, IndexError, OverflowError) as error:
        raise ProgramError(f"not a TorchScript archive: {error}") from error


def build_archive(entries: Mapping[str, Entry]) -> bytes:
    """Return the archive that torch loads: the entries that it reads, and nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            if _LOADED.fullmatch(name):
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()


def _directory(data: bytes) -> Iterator[_Header]:
    """Yield the entries of the central directory, which has to end where the end records begin."""
    end = len(data) - _END.size
    signature, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(data, end)
    if signature != b"PK\5\6" or disk or first_disk or comment:
        raise _malformed("an end record at its very end, without a comment")
    if data[end - _LOCATOR.size : end].startswith(b"PK\6\7"):
        end = _check_end64(data, end, (here, count, size, offset))
        *_, here, count, size, offset = _END64.unpack_from(data, end)
    if here != count or count > MAX_ENTRIES or offset + size != end:
        raise _malformed(f"one directory of at most {MAX_ENTRIES} entries before the end record")
    place = offset
    for _ in range(count):
        signature, _, _, flags, method, _, _, crc, packed, length, *lengths, start_disk, _, _, start = (
            _CENTRAL.unpack_from(data, place)
        )
        name_length, extra_length, comment_length = lengths
        if signature != b"PK\1\2" or extra_length or comment_length or start_disk:
            raise _malformed("entries without extra fields and comments")
        place += _CENTRAL.size
        yield _Header(data[place : place + name_length], flags, method, crc, packed, length, start)
        place += name_length
    if place != end:
        raise _malformed("a directory without gaps")


def _check_end64(data: bytes, end: int, stated: tuple[int, ...]) -> int:
    """Return the place of the 64-bit end record, which has to state what the other end record states."""
    locator = end - _LOCATOR.size
    _, disk, place, disks = _LOCATOR.unpack_from(data, locator)
    signature, length, _, _, this_disk, first_disk, *found = _END64.unpack_from(data, place)
    if place + _END64.size != locator or signature != b"PK\6\6" or length != _END64.size - 12:
        raise _malformed("a 64-bit end record before its locator")
    agree = all(short in (long, _FULL, 2**16 - 1) for short, long in zip(stated, found, strict=True))
    if disk or disks != 1 or this_disk or first_disk or not agree:
        raise _malformed("end records that agree")
    return int(place)


def _unpack(data: bytes, headers: list[_Header]) -> dict[str, Entry]:
    view, entries, place, folder = memoryview(data), dict[str, Entry](), 0, None
    unpacked = sum(header.size for header in headers if header.method != _STORED)
    if unpacked > MAX_PROGRAM_BYTES:
        raise ProgramError(
            f"expected compressed entries of at most {MAX_PROGRAM_BYTES} bytes unpacked, found {unpacked}"
        )
    for header in headers:
        name = _entry_name(header.name)
        first, _, rest = name.partition("/")
        if not rest or rest in entries or (folder is not None and first != folder):
            raise ProgramError(f"expected an archive with one folder and unique entries, found {name!r}")
        folder = first
        begin = _check_local(data, header, place)
        packed = view[begin : begin + header.packed]
        entries[rest] = content = _content(name, packed, header)
        if zlib.crc32(content) != header.crc:
            raise ProgramError(f"{name}: its CRC does not fit")
        place = _end_of(data, header, begin + header.packed)
    if place != _directory_place(data, headers):
        raise _malformed("no bytes between its entries and its directory")
    if "data.pkl" not in entries:
        raise ProgramError("not a TorchScript archive: it has no data.pkl")
    return entries


def _directory_place(data: bytes, headers: list[_Header]) -> int:
    end = len(data) - _END.size
    if data[end - _LOCATOR.size : end].startswith(b"PK\6\7"):
        end -= _LOCATOR.size + _END64.size
    return end - sum(_CENTRAL.size + len(header.name) for header in headers)


def _check_local(data: bytes, header: _Header, place: int) -> int:
    """Return where the entry's content begins. Its local header is at ``place`` and equals the one of the directory."""
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(data, place)
    begin = place + _LOCAL.size
    stated = (crc, packed, size)
    is_left_to_descriptor = flags & _DESCRIBED and not any(stated)
    is_same = (
        header.offset == place
        and (flags, method) == (header.flags, header.method)
        and (is_left_to_descriptor or stated == (header.crc, header.packed, header.size))
        and data[begin : begin + name_length] == header.name
    )
    if signature != b"PK\3\4" or not is_same:
        raise _malformed("local headers, one after another, that equal those of its directory")
    if flags & ~(_UTF8 | _DESCRIBED) or method not in (_STORED, _DEFLATED):
        raise _malformed("entries that are stored or deflated, and not encrypted")
    if method == _STORED and header.packed != header.size:
        raise _malformed("stored entries of their own size")
    extra = data[begin + name_length : begin + name_length + extra_length]
    if extra and (
        extra[:2] != _PADDING or int.from_bytes(extra[2:4], "little") != len(extra) - 4 or extra[4:].strip(b"Z")
    ):
        raise _malformed("extra fields that only align")
    return int(begin + name_length + extra_length)


def _content(name: str, packed: memoryview, header: _Header) -> Entry:
    if len(packed) != header.packed:
        raise _malformed("complete entries")
    if header.method == _STORED:
        return packed
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflate.decompress(packed, header.size + 1)
    if len(content) != header.size or not inflate.eof or inflate.unused_data:
        raise ProgramError(f"{name}: it does not unpack to {header.size} bytes")
    return content


def _end_of(data: bytes, header: _Header, place: int) -> int:
    """Return where the next entry begins: after the descriptor, if there is one."""
    if not header.flags & _DESCRIBED:
        return place
    if _DESCRIPTOR.unpack_from(data, place) != (b"PK\7\10", header.crc, header.packed, header.size):
        raise _malformed("descriptors that equal its directory")
    return place + _DESCRIPTOR.size


def _entry_name(name: bytes) -> str:
    if not _NAME.fullmatch(name):
        raise ProgramError(f"expected entries with plain names, found {name[:80]!r}")
    return name.decode()


def _malformed(expected: str) -> ProgramError:
    return ProgramError(f"not a TorchScript archive as torch writes it: expected {expected}")
