from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from actor.guard import call_guard, unclean_ends
from actor.guard.acting_record import EndedRecord, Remove
from actor.guard.call_guard import CallGuard
from actor.guard.record_place import RecordPlace
from actor.guard.unclean_ends import UncleanEnd, UncleanEnds
from shared.errors import StoreUnavailable
from shared.store.store_notes import LocalNotes
from tests.support.waiting import until

_BAD, _OTHER = "ab" * 32, "cd" * 32
_FAULT = "crashed its process in a call on onnx (Aborted)"
_PLACE = RecordPlace(Path("unused"), "cache")


def _crashed(digest: str) -> EndedRecord:
    return EndedRecord(7, digest, "onnx", True, 0.0, "Aborted")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[EndedRecord]:
    """The records that the next ``take`` finds."""
    records: list[EndedRecord] = []

    def read(_place: RecordPlace) -> Iterator[tuple[EndedRecord, Remove]]:
        for record in [*records]:
            yield record, partial(records.remove, record)

    monkeypatch.setattr(unclean_ends, "ended_records", read)
    return records


def test_the_second_end_is_the_last_one(ended: list[EndedRecord], tmp_path: Path) -> None:
    directory = tmp_path / "cache" / "unclean-ends"
    for count in (1, 2):
        ended[:] = [_crashed(_BAD)]
        (end,) = UncleanEnds(directory).take(_PLACE)
        assert end == UncleanEnd(7, _BAD, _FAULT, count)
        assert end.is_last == (count == 2)
    assert UncleanEnds(directory).take(_PLACE) == []


def test_two_processes_that_ended_together_count_twice(ended: list[EndedRecord], tmp_path: Path) -> None:
    ended[:] = [_crashed(_BAD), _crashed(_OTHER), _crashed(_BAD)]
    ends = UncleanEnds(tmp_path / "unclean-ends").take(_PLACE)
    assert [(end.digest, end.ends) for end in ends] == [(_BAD, 1), (_OTHER, 1), (_BAD, 2)]


def test_ends_without_a_fault_do_not_count(ended: list[EndedRecord], tmp_path: Path) -> None:
    ended[:] = [EndedRecord(7, _BAD, "onnx", True, 0.0, "")] * 3
    assert UncleanEnds(tmp_path / "unclean-ends").take(_PLACE) == []


def test_a_cleared_content_begins_at_zero(ended: list[EndedRecord], tmp_path: Path) -> None:
    ends = UncleanEnds(tmp_path / "unclean-ends")
    ended[:] = [_crashed(_BAD), _crashed(_OTHER)]
    ends.take(_PLACE)
    ends.clear(_BAD)
    ended[:] = [_crashed(_BAD), _crashed(_OTHER)]
    assert [end.ends for end in ends.take(_PLACE)] == [1, 2]


def test_ends_that_cannot_be_written_are_counted_and_their_records_stay(
    ended: list[EndedRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not give a content another two ends."""
    ends = UncleanEnds(tmp_path / "unclean-ends")
    ended[:] = [_crashed(_BAD)]
    assert [end.ends for end in ends.take(_PLACE)] == [1]

    def refuse(*_: object) -> None:
        raise StoreUnavailable("no space left on the device")

    for _ in range(2):
        ended[:] = [_crashed(_BAD), _crashed(_OTHER)]
        with monkeypatch.context() as full:
            full.setattr(LocalNotes, "write", refuse)
            assert [(end.digest, end.ends) for end in ends.take(_PLACE)] == [(_BAD, 2), (_OTHER, 1)]
        assert ended == [_crashed(_BAD), _crashed(_OTHER)]
    assert [(end.digest, end.ends) for end in ends.take(_PLACE)] == [(_BAD, 2), (_OTHER, 1)]
    assert ended == []


def test_an_end_counts_once_also_when_old_counts_cannot_be_removed(
    ended: list[EndedRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(unclean_ends, "forget_oldest", refuse)
    ended[:] = [_crashed(_BAD)]
    ends = UncleanEnds(tmp_path / "unclean-ends")
    assert [end.ends for end in ends.take(_PLACE)] == [1]
    assert ended == []


def test_a_directory_that_cannot_be_written_to_counts_nothing(ended: list[EndedRecord], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended[:] = [_crashed(_BAD)]
    ends = UncleanEnds(tmp_path / "file" / "unclean-ends")
    assert ends.take(_PLACE) == []
    ends.clear(_BAD)


@pytest.mark.parametrize("healthy_after_s", [0.01, 600.0])
def test_an_agent_that_acted_for_a_while_and_closes_clears_the_count(
    ended: list[EndedRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy_after_s: float
) -> None:
    monkeypatch.setattr(call_guard, "HEALTHY_AFTER_S", healthy_after_s)
    ended[:] = [_crashed(_BAD)]
    guard = CallGuard(tmp_path, deadline_s=0.1)
    assert [end.ends for end in guard.earlier_ends] == [1]
    guard.adopted(7, _BAD, "onnx")
    looks = list[int]()
    guard.start(lambda: looks.append(0) or len(looks))
    until(lambda: len(looks) > 5)
    guard.close()
    ended[:] = [_crashed(_BAD)]
    (end,) = UncleanEnds(tmp_path / "unclean-ends").take(_PLACE)
    assert end.ends == (1 if healthy_after_s < 1 else 2)
