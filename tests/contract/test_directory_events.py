"""What every source of a directory's events must do: inotify's, and watchdog's, which other systems have."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from actor.watching.directory_events import DirectoryEvents, watch_directory
from actor.watching.inotify_events import InotifyEvents
from actor.watching.observer_events import ObserverEvents
from actor.watching.wake_up import WakeUp
from tests.support.waiting import until

SOURCES = ["inotify", "observer"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


@pytest.fixture
def woken() -> WakeUp:
    return WakeUp()


def _watch(source: str, path: Path, woken: WakeUp) -> DirectoryEvents:
    events = InotifyEvents(path) if source == "inotify" else ObserverEvents(path, woken.set)
    if events.descriptor is not None:
        woken.register(events.descriptor)
    return events


@pytest.fixture(params=SOURCES)
def events(request: pytest.FixtureRequest, directory: Path, woken: WakeUp) -> Iterator[DirectoryEvents]:
    events = _watch(request.param, directory, woken)
    yield events
    events.close()


def _come(directory: Path, name: str) -> None:
    """As a version comes: made elsewhere on the same file system, and renamed."""
    made = directory.parent / f"made-{name}"
    made.mkdir()
    made.rename(directory / name)


def test_what_is_renamed_into_it_wakes_and_is_named(events: DirectoryEvents, directory: Path, woken: WakeUp) -> None:
    assert events.take() == []
    for name in ("v000000", "v000001"):
        _come(directory, name)
        assert woken.wait(20.0)
        until(lambda name=name: name in events.take())
        woken.clear()
    assert events.take() == []
    assert not woken.wait(0.0)


def test_what_is_read_written_or_removed_in_it_wakes_nobody(
    events: DirectoryEvents, directory: Path, woken: WakeUp
) -> None:
    _come(directory, "v000000")
    until(events.take)
    woken.clear()
    (directory / ".highest-000001").touch()
    (directory / "v000000" / "file").write_text("text")
    assert (directory / "v000000" / "file").read_text() == "text"
    shutil.rmtree(directory / "v000000")
    assert not woken.wait(0.2)
    assert events.take() == []


def test_once_closed_it_tells_no_more(events: DirectoryEvents, directory: Path, woken: WakeUp) -> None:
    if events.descriptor is not None:
        woken.ignore(events.descriptor)
    events.close()
    events.close()
    _come(directory, "v000000")
    assert not woken.wait(0.1)
    assert events.take() == []


@pytest.mark.parametrize("source", SOURCES)
def test_where_there_is_no_directory_there_are_no_events(source: str, tmp_path: Path, woken: WakeUp) -> None:
    with pytest.raises(OSError, match="No such file"):
        _watch(source, tmp_path / "nothing", woken)
    (tmp_path / "file").touch()
    if source == "inotify":
        with pytest.raises(OSError, match="Not a directory"):
            _watch(source, tmp_path / "file", woken)


def test_a_directory_that_goes_says_so(directory: Path, woken: WakeUp) -> None:
    events = watch_directory(directory, woken.set)
    assert isinstance(events, InotifyEvents)
    woken.register(events.descriptor)
    directory.rename(directory.parent / "elsewhere")
    assert woken.wait(20.0)
    assert "" in events.take()
    woken.ignore(events.descriptor)
    events.close()
