import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProgramError
from shared.policy import torchscript_archive
from shared.policy.torchscript_archive import build_archive, read_archive
from tests.support.script_archives import CODE, small_archive, with_body, with_entries

ARCHIVE = small_archive()
OTHER = with_entries({CODE: b"evil"})
_END, _CENTRAL, _LOCAL = 22, 46, 30


def zipped(*entries: tuple[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
        archive.comment = comment
    return buffer.getvalue()


def patched(data: bytes, signature: bytes, offset: int, form: str, number: int) -> bytes:
    """Write ``number`` at ``offset`` of the first record with this signature."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.index(signature) + offset, number)
    return bytes(changed)


PLAIN = zipped(("a/data.pkl", b"pickle"), ("a/version", b"3\n"))
_DEFLATED = zipped(("a/data.pkl", b"pickle" * 50), method=zipfile.ZIP_DEFLATED)

POLYGLOTS = {
    "two archives, one after the other": OTHER + ARCHIVE,
    "a prefix": b"#!/bin/sh\n" + PLAIN,
    "a suffix": PLAIN + b"\n",
    "a comment": zipped(("a/data.pkl", b"x"), comment=b"hello"),
    "an archive in the comment": zipped(("a/data.pkl", b"x"), comment=PLAIN),
    "a second end record": ARCHIVE + ARCHIVE[-_END:],
    "a gap before the directory": ARCHIVE[: ARCHIVE.index(b"PK\1\2")]
    + b"\0" * 64
    + ARCHIVE[ARCHIVE.index(b"PK\1\2") :],
    "two entries of one name": zipped(("a/data.pkl", b"x"), ("a/b", b"1"), ("a/c", b"2")).replace(b"a/c", b"a/b"),
    "two folders": zipped(("a/data.pkl", b"x"), ("b/version", b"3")),
    "no folder": zipped(("data.pkl", b"x")),
    "a path outside": zipped(("a/data.pkl", b"x"), ("a/../b", b"1")),
    "a name with a zero": patched(PLAIN, b"PK\1\2", _CENTRAL + 2, "<B", 0),
    "another name in the local header": patched(PLAIN, b"PK\3\4", _LOCAL + 2, "<c", b"e"),  # type: ignore[arg-type]
    "another method in the local header": patched(PLAIN, b"PK\3\4", 8, "<H", 8),
    "another size in the local header": patched(PLAIN, b"PK\3\4", 22, "<I", 5),
    "another CRC in the local header": patched(PLAIN, b"PK\3\4", 14, "<I", 5),
    "an encrypted entry": patched(patched(PLAIN, b"PK\3\4", 6, "<H", 1), b"PK\1\2", 8, "<H", 1),
    "an offset to elsewhere": patched(PLAIN, b"PK\1\2", 42, "<I", 1),
    "a larger count in one end record": patched(ARCHIVE, b"PK\6\6", 24, "<Q", 1),
    "another directory in one end record": patched(ARCHIVE, b"PK\6\6", 48, "<Q", 100),
    "a locator to elsewhere": patched(ARCHIVE, b"PK\6\7", 8, "<Q", 100),
    "an extra field": patched(ARCHIVE, b"FB", 0, "<H", 1),
    "a wrong size of deflated data": patched(patched(_DEFLATED, b"PK\3\4", 22, "<I", 9), b"PK\1\2", 24, "<I", 9),
    "an unknown compression": patched(patched(PLAIN, b"PK\3\4", 8, "<H", 12), b"PK\1\2", 10, "<H", 12),
    "another disk": patched(PLAIN, b"PK\5\6", 4, "<H", 1),
}


def described(data: bytes) -> bytes:
    """Return the archive of one entry, written to a stream: its sizes are in a descriptor behind it."""

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    buffer = Stream()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/data.pkl"), data)
    return buffer.getvalue()


def deflated(packed: bytes, size: int, crc: int) -> bytes:
    """Return the archive of one entry, which states this size and CRC for data deflated by hand."""
    name = b"a/data.pkl"
    fields = (0, 8, 0, 0, crc, len(packed), size, len(name))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, *fields, 0) + name + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *fields, 0, 0, 0, 0, 0, 0) + name
    return local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


_END_SIGNATURE, _CENTRAL_SIGNATURE, _LOCAL_SIGNATURE = b"PK\5\6", b"PK\1\2", b"PK\3\4"
_END64_SIGNATURE, _LOCATOR_SIGNATURE, _PADDING = b"PK\6\6", b"PK\6\7", b"FB"
DESCRIBED = described(b"pickle")
_BEHIND = ARCHIVE.index(_END64_SIGNATURE) + 56

FIELDS = {
    "the signature of the end record": (PLAIN, _END_SIGNATURE, 3, "<B", 9, "an end record at its very end"),
    "the disk of the end record": (PLAIN, _END_SIGNATURE, 4, "<H", 1, "an end record at its very end"),
    "the first disk of the end record": (PLAIN, _END_SIGNATURE, 6, "<H", 1, "an end record at its very end"),
    "the length of the comment": (PLAIN, _END_SIGNATURE, 20, "<H", 1, "an end record at its very end"),
    "the entries on this disk": (PLAIN, _END_SIGNATURE, 8, "<H", 3, "one directory"),
    "the entries": (PLAIN, _END_SIGNATURE, 10, "<H", 3, "one directory"),
    "the size of the directory": (PLAIN, _END_SIGNATURE, 12, "<I", 1, "one directory"),
    "the signature of an entry": (PLAIN, _CENTRAL_SIGNATURE, 3, "<B", 9, "entries without extra fields"),
    "the extra field of an entry": (PLAIN, _CENTRAL_SIGNATURE, 30, "<H", 1, "entries without extra fields"),
    "the comment of an entry": (PLAIN, _CENTRAL_SIGNATURE, 32, "<H", 1, "entries without extra fields"),
    "the disk of an entry": (PLAIN, _CENTRAL_SIGNATURE, 34, "<H", 1, "entries without extra fields"),
    "the signature of the 64-bit end record": (ARCHIVE, _END64_SIGNATURE, 3, "<B", 9, "before its locator"),
    "the length of the 64-bit end record": (ARCHIVE, _END64_SIGNATURE, 4, "<Q", 45, "before its locator"),
    "the disk of the 64-bit end record": (ARCHIVE, _END64_SIGNATURE, 16, "<I", 1, "end records that agree"),
    "the first disk of the 64-bit end record": (ARCHIVE, _END64_SIGNATURE, 20, "<I", 1, "end records that agree"),
    "the entries of the 64-bit end record": (ARCHIVE, _END64_SIGNATURE, 32, "<Q", 1, "end records that agree"),
    "the disk of the locator": (ARCHIVE, _LOCATOR_SIGNATURE, 4, "<I", 1, "end records that agree"),
    "the disks of the locator": (ARCHIVE, _LOCATOR_SIGNATURE, 16, "<I", 2, "end records that agree"),
    "the signature of a local header": (PLAIN, _LOCAL_SIGNATURE, 3, "<B", 9, "local headers, one after another"),
    "the offset of an entry": (PLAIN, _CENTRAL_SIGNATURE, 42, "<I", 1, "local headers, one after another"),
    "the flags of a local header": (PLAIN, _LOCAL_SIGNATURE, 6, "<H", 8, "local headers, one after another"),
    "the CRC of a local header": (PLAIN, _LOCAL_SIGNATURE, 14, "<I", 0, "local headers, one after another"),
    "the CRC before a descriptor": (DESCRIBED, _LOCAL_SIGNATURE, 14, "<I", 1, "local headers, one after another"),
    "the packed size before a descriptor": (DESCRIBED, _LOCAL_SIGNATURE, 18, "<I", 6, "local headers, one after"),
    "the size before a descriptor": (DESCRIBED, _LOCAL_SIGNATURE, 22, "<I", 6, "local headers, one after another"),
    "the size in a descriptor": (DESCRIBED, b"PK\7\10", 12, "<I", 5, "descriptors that equal its directory"),
    "the size of a stored entry": (DESCRIBED, _CENTRAL_SIGNATURE, 24, "<I", 7, "stored entries of their own size"),
    "the name of padding": (ARCHIVE, _PADDING, 1, "<B", 9, "extra fields that only align"),
    "the length of padding": (ARCHIVE, _PADDING, 2, "<H", 1, "extra fields that only align"),
    "the first byte of padding": (ARCHIVE, _PADDING, 4, "<B", ord("X"), "extra fields that only align"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_one_changed_field_is_refused_by_the_check_of_that_field(name: str) -> None:
    data, signature, offset, form, number, says = FIELDS[name]
    read_archive(data)
    with pytest.raises(ProgramError, match=says):
        read_archive(patched(data, signature, offset, form, number))


def test_a_locator_of_a_copy_of_the_end_record_is_refused() -> None:
    copy = ARCHIVE[_BEHIND - 56 : _BEHIND]
    both = ARCHIVE[: _BEHIND - 56] + copy + ARCHIVE[_BEHIND - 56 :]
    with pytest.raises(ProgramError, match="a 64-bit end record before its locator"):
        read_archive(both)


@pytest.mark.parametrize(("offset", "form", "number"), [(8, "<H", 2**16 - 1), (12, "<I", 2**32 - 1)])
def test_an_end_record_may_leave_a_number_to_the_64_bit_one(offset: int, form: str, number: int) -> None:
    assert read_archive(patched(ARCHIVE, _END_SIGNATURE, offset, form, number)) == read_archive(ARCHIVE)
    with pytest.raises(ProgramError, match="end records that agree"):
        read_archive(patched(ARCHIVE, _END_SIGNATURE, offset, form, number - 1))


def test_an_entry_with_a_descriptor_is_read() -> None:
    assert read_archive(DESCRIBED) == {"data.pkl": b"pickle"}
    repeated = zlib.crc32(b"pickle").to_bytes(4, "little") + struct.pack("<2I", 6, 6)
    stated = bytearray(DESCRIBED)
    stated[14:26] = repeated
    assert read_archive(bytes(stated)) == {"data.pkl": b"pickle"}


def test_sizes_are_left_out_only_before_a_descriptor() -> None:
    stated = bytearray(PLAIN)
    stated[14:26] = bytes(12)
    with pytest.raises(ProgramError, match="local headers, one after another"):
        read_archive(bytes(stated))


def test_a_name_in_utf_8_is_accepted_if_it_is_ascii() -> None:
    flagged = patched(patched(PLAIN, _LOCAL_SIGNATURE, 6, "<H", 1 << 11), _CENTRAL_SIGNATURE, 8, "<H", 1 << 11)
    assert read_archive(flagged) == read_archive(PLAIN)


@pytest.mark.parametrize(
    "name", ["data.pkl", "/data.pkl", "a/", "a//b", "a/./b", "a/../b", "..", "a/b\\c", "a/\x7f", "a/é", ""]
)
def test_another_name_of_an_entry_is_refused(name: str) -> None:
    with pytest.raises(ProgramError, match=r"entries with plain names|one folder"):
        read_archive(zipped(("a/data.pkl", b""), ("a/x", b""), (name, b"")))


@pytest.mark.parametrize("name", ["a/b/c", "a/.data/serialization_id", "a/...", "a/b..", "a/ [x]~", "a/..b"])
def test_a_plain_name_of_an_entry_is_accepted(name: str) -> None:
    assert name[2:] in read_archive(zipped(("a/data.pkl", b""), (name, b"")))


def test_an_archive_without_data_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"it has no data\.pkl"):
        read_archive(zipped(("a/version", b"3")))


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript_archive, "MAX_ENTRIES", 2)
    assert len(read_archive(PLAIN)) == 2
    monkeypatch.setattr(torchscript_archive, "MAX_ENTRIES", 1)
    with pytest.raises(ProgramError, match="at most 1 entries"):
        read_archive(PLAIN)


def test_deflated_data_is_one_complete_stream_of_the_stated_size() -> None:
    content = b"pickle" * 50
    crc, encoder = zlib.crc32(content), zlib.compressobj(wbits=-15)
    begun = encoder.compress(content) + encoder.flush(zlib.Z_SYNC_FLUSH)
    whole = begun + encoder.flush()
    assert read_archive(deflated(whole, len(content), crc)) == {"data.pkl": content}
    assert read_archive(deflated(b"\3\0", 0, 0)) == {"data.pkl": b""}
    for packed, size in ((begun, 300), (whole + b"\0", 300), (whole, 299), (whole, 301), (whole, 0)):
        with pytest.raises(ProgramError, match=rf"^a/data\.pkl: it does not unpack to {size} bytes"):
            read_archive(deflated(packed, size, zlib.crc32(content[:size])))


def test_deflated_data_is_unpacked_to_its_stated_size_only() -> None:
    content = bytes(20 * 2**20)
    encoder = zlib.compressobj(wbits=-15)
    bomb = deflated(encoder.compress(content) + encoder.flush(), 10, 0)
    tracemalloc.start()
    try:
        with pytest.raises(ProgramError, match="it does not unpack to 10 bytes"):
            read_archive(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", POLYGLOTS)
def test_an_archive_that_two_readers_read_differently_is_refused(name: str) -> None:
    with pytest.raises(ProgramError):
        read_archive(POLYGLOTS[name])


def test_python_and_torch_read_a_polyglot_differently_and_it_is_refused() -> None:
    """Python takes the directory that ends where the end record begins; torch the one at the stated offset."""
    good, evil = (with_body(f"return [torch.mul(inputs[0], {factor})]") for factor in (2, 3))
    assert len(good) == len(evil)
    both = evil[:-_END] + good
    with zipfile.ZipFile(io.BytesIO(both)) as opened:
        assert b", 2)" in opened.read(f"archive/{CODE}")
    (found,) = torch.jit.load(io.BytesIO(both))([torch.ones(1)])
    assert found == 3
    with pytest.raises(ProgramError, match="one directory"):
        read_archive(both)


def test_the_archives_of_torch_and_of_this_module_are_read() -> None:
    entries = read_archive(ARCHIVE)
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as opened:
        assert {f"archive/{name}": bytes(data) for name, data in entries.items()} == {
            name: opened.read(name) for name in opened.namelist()
        }
    again = read_archive(build_archive(entries))
    assert again == {name: data for name, data in entries.items() if not name.endswith(".debug_pkl")}
    assert build_archive(again) == build_archive(entries)


def test_torch_gets_nothing_but_the_entries_that_were_read() -> None:
    entries = {**read_archive(ARCHIVE), "extra/file": b"x", "bytecode.pkl": b"x", "traced_inputs.pkl": b"x"}
    built = build_archive(entries)
    assert not {"extra/file", "bytecode.pkl", "traced_inputs.pkl"} & read_archive(built).keys()
    module = torch.jit.load(io.BytesIO(built))
    assert module.steps == 2


def test_large_deflated_entries_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(("a/data.pkl", b""), ("a/bomb", bytes(10 * 2**20)), method=zipfile.ZIP_DEFLATED)
    stored = zipped(("a/data.pkl", bytes(11 * 2**20)))
    monkeypatch.setattr(torchscript_archive, "MAX_PROGRAM_BYTES", 10 * 2**20)
    read_archive(bomb)
    read_archive(stored)
    monkeypatch.setattr(torchscript_archive, "MAX_PROGRAM_BYTES", 10 * 2**20 - 1)
    with pytest.raises(ProgramError, match="bytes unpacked"):
        read_archive(bomb)


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_a_changed_byte_changes_no_entry_unnoticed(place: int, change: int) -> None:
    data = bytearray(ARCHIVE)
    data[place] ^= change
    try:
        found = read_archive(bytes(data))
    except ProgramError:
        return
    assert found == read_archive(ARCHIVE)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_with_one_error(data: bytes) -> None:
    with pytest.raises(ProgramError):
        read_archive(data)


@given(st.integers(0, len(ARCHIVE)), st.integers(0, len(ARCHIVE)))
def test_a_cut_archive_is_refused(begin: int, end: int) -> None:
    if (begin, end) != (0, len(ARCHIVE)):
        with pytest.raises(ProgramError):
            read_archive(ARCHIVE[begin:end])
