"""Records of real processes, which end in all the ways that a process can end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actor.guard.acting_record import ActingRecord, EndedRecord, ended_records
from actor.guard.record_place import RecordPlace
from tests.support.paths import REPOSITORY

_DIGEST = "ab" * 32
_PROGRAM = """
import faulthandler, os, pathlib, signal, sys, threading
from actor.guard.acting_record import ActingRecord
from actor.guard.record_place import RecordPlace
record = ActingRecord(RecordPlace(pathlib.Path(sys.argv[1]), "cache"))
faulthandler.enable(record.crash_report)
def act():
    record.adopted(7, "ab" * 32, "torchscript")
def call():
    record.calling[0] = 1
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path: Path) -> RecordPlace:
    return RecordPlace(tmp_path / "records", "cache")


def _end(place: RecordPlace, body: str) -> None:
    command = [sys.executable, "-c", _PROGRAM + body, str(place.directory)]
    subprocess.run(command, cwd=REPOSITORY, check=False)


def _taken(place: RecordPlace) -> list[EndedRecord]:
    found = []
    for record, remove in ended_records(place):
        remove()
        found += [] if record is None else [record]
    return found


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("act(); call(); faulthandler._sigsegv()", "crashed its process in a call on torchscript (Segmentation fault)"),
        ("act(); call(); faulthandler._sigabrt()", "crashed its process in a call on torchscript (Aborted)"),
        ("act(); call(); record.note_hung(2.5); kill()", "did not return from a call on torchscript for 2.5 s"),
        (
            "act(); call(); record.note_hung(0.5); os._exit(5)",
            "did not return from a call on torchscript for 0.5 s",
        ),
        ("act(); call(); kill()", None),
        ("act(); record.note_hung(2.5); kill()", None),
        ("act(); faulthandler._sigsegv()", None),
        ("act(); call(); t = threading.Thread(target=faulthandler._sigsegv); t.start(); t.join()", None),
        ("call(); faulthandler._sigsegv()", None),
        ("act(); sys.exit(1)", None),
    ],
    ids=[
        "crash",
        "abort",
        "killed in a hang",
        "deadline",
        "killed in an ordinary call",
        "killed between calls",
        "crash between calls",
        "crash of another thread",
        "crash before an adoption",
        "ended without a close",
    ],
)
def test_only_an_end_in_a_call_that_crashes_or_hangs_is_the_fault_of_the_content(
    place: RecordPlace, body: str, fault: str | None
) -> None:
    _end(place, body)
    (record,) = _taken(place)
    assert record.fault() == fault
    if fault is not None:
        assert (record.version, record.digest) == (7, _DIGEST)
    assert _taken(place) == []
    assert list(place.directory.iterdir()) == []


def test_an_agent_that_closes_leaves_nothing(place: RecordPlace) -> None:
    _end(place, "act(); call(); record.close(); record.close(); record.calling[0] = 0")
    assert list(place.directory.iterdir()) == []


def test_the_record_of_a_living_agent_is_left_alone(place: RecordPlace) -> None:
    record = ActingRecord(place)
    record.calling[0] = 1
    assert _taken(place) == []
    assert len(place.paths()) == 1
    record.close()


def test_a_record_stays_until_it_is_removed_and_one_caller_at_a_time_has_it(place: RecordPlace) -> None:
    _end(place, "act(); call(); faulthandler._sigsegv()")
    reading = ended_records(place)
    record, _ = next(reading)
    assert list(ended_records(place)) == []
    reading.close()
    assert _taken(place) == [record]


def test_records_of_other_caches_are_left_alone(place: RecordPlace) -> None:
    _end(place, "act(); call(); faulthandler._sigsegv()")
    assert _taken(RecordPlace(place.directory, "other")) == []
    assert len(_taken(place)) == 1


def test_a_record_of_an_earlier_boot_is_removed_and_not_read(place: RecordPlace) -> None:
    _end(place, "act(); call(); faulthandler._sigsegv()")
    (path,) = place.paths()
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    data = path.read_bytes()
    assert boot in data
    path.write_bytes(data.replace(boot, boot[::-1]))
    assert _taken(place) == []
    assert place.paths() == []


@pytest.mark.parametrize("data", [b"", b"acting-1", b"\xff" * 5000, bytes(4096)])
def test_files_of_another_form_are_removed_and_not_read(place: RecordPlace, data: bytes) -> None:
    place.directory.mkdir()
    place.path("1").write_bytes(data)
    assert _taken(place) == []
    assert place.paths() == []


def test_without_a_place_that_can_be_written_to_the_agent_acts_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    record = ActingRecord(RecordPlace(tmp_path / "file", "cache"))
    record.adopted(7, _DIGEST, "llvm")
    record.calling[0] = 1
    assert record.content == (7, _DIGEST, "llvm")
    assert record.crash_report is None
    record.close()


def test_the_report_of_a_crash_is_read_whole(place: RecordPlace) -> None:
    """The crashed thread may be the last of many in the report."""
    body = "act(); call()\nfor _ in range(50): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    _end(place, body + "faulthandler._sigsegv()")
    (record,) = _taken(place)
    assert record == EndedRecord(7, _DIGEST, "torchscript", True, 0.0, "Segmentation fault")


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory as a directory")
def test_a_record_is_private(place: RecordPlace) -> None:
    record = ActingRecord(place)
    (path,) = place.paths()
    assert path.stat().st_mode & 0o077 == 0
    assert place.directory.stat().st_mode & 0o077 == 0
    assert record.crash_report is not None
    assert not os.get_inheritable(record.crash_report)
    record.close()
