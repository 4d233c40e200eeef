import io
import struct
import zipfile

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
    read_archive(bomb)
    monkeypatch.setattr(torchscript_archive, "MAX_PROGRAM_BYTES", 2**20)
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
