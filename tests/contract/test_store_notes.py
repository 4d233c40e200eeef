"""The contract of the notes in a store."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from shared.errors import StoreUnavailable
from shared.store.policy_store import Retention
from shared.store.store_notes import MAX_NOTE_BYTES, LocalNotes, StoreNotes
from tests.support.sample_versions import publish_sample
from tests.support.store_cases import StoreCase


@pytest.fixture(autouse=True)
def published(case: StoreCase) -> None:
    publish_sample(case.open())


def _notes(case: StoreCase) -> StoreNotes:
    notes = case.open().notes
    assert notes is not None
    return notes


def test_a_note_is_read_by_others_replaced_and_removed(case: StoreCase) -> None:
    ours, theirs = _notes(case), _notes(case)
    assert theirs.names() == []
    assert theirs.read("returns-1") is None
    theirs.remove("returns-1")
    for data in (b"one", b"two, and longer", b""):
        ours.write("returns-1", data)
        assert theirs.read("returns-1") == data
    ours.write("a", b"x" * MAX_NOTE_BYTES)
    assert theirs.read("a") == b"x" * MAX_NOTE_BYTES
    assert theirs.names() == ["a", "returns-1"]
    theirs.remove("a")
    assert ours.names() == ["returns-1"]
    assert case.open().versions() == [0]


def test_neither_creating_nor_sweeping_replaces_a_note(case: StoreCase) -> None:
    assert _notes(case).create("result-1", b"ours")
    assert not _notes(case).create("result-1", b"theirs")
    case.open(abandon_after_s=0.0).sweep(Retention())
    assert _notes(case).read("result-1") == b"ours"


def test_one_of_several_concurrent_creations_succeeds(case: StoreCase) -> None:
    for round_number in range(5):
        name = f"evaluation-{round_number}"
        with ThreadPoolExecutor(4) as pool:
            mine = [b"from %d" % i for i in range(4)]
            first = list(pool.map(lambda data: _notes(case).create(name, data), mine))  # noqa: B023
        assert first.count(True) == 1
        assert _notes(case).read(name) == mine[first.index(True)]


@pytest.mark.parametrize("name", ["", "../outside", "a/b", "A", ".hidden", "x" * 101, "a.json"])
def test_invalid_names_are_refused(case: StoreCase, name: str) -> None:
    notes = _notes(case)
    for act in (partial(notes.write, data=b""), partial(notes.create, data=b""), notes.read, notes.remove):
        with pytest.raises(ValueError, match="the name of a note"):
            act(name)


def test_other_files_are_not_notes(case: StoreCase) -> None:
    case.put("notes/huge.json", b"x" * (MAX_NOTE_BYTES + 1))
    case.put("notes/directory.json/file", b"")
    case.put("notes/readme", b"")
    case.put("notes/UPPER.json", b"")
    notes = _notes(case)
    assert set(notes.names()) <= {"huge", "directory"}
    assert notes.read("huge") is None
    assert notes.read("directory") is None


def test_a_pipe_in_place_of_the_notes_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "notes")
    with pytest.raises(StoreUnavailable, match="could not read the note"):
        LocalNotes(tmp_path / "notes").read("a")


def test_a_link_in_place_of_the_notes_leads_nowhere(tmp_path: Path) -> None:
    """The writer of a store chooses the link, and an actor would write with the rights of its user."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.json").write_bytes(b"kept")
    (tmp_path / "notes").symlink_to(elsewhere)
    notes = LocalNotes(tmp_path / "notes")
    attempts = (
        partial(notes.write, "a", b""),
        partial(notes.create, "a", b""),
        partial(notes.remove, "kept"),
        partial(notes.read, "kept"),
        notes.names,
    )
    for attempt in attempts:
        with pytest.raises(StoreUnavailable):
            attempt()
    assert [path.name for path in elsewhere.iterdir()] == ["kept.json"]
