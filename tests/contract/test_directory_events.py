"""The contract of every source of a directory's events: inotify on Linux, watchdog elsewhere."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from actor.watching.directory_events import DirectoryEvents, InotifyEvents, watch_directory
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
    """Create a directory elsewhere on the same file system and rename it, as a publisher does."""
    made = directory.parent / f"made-{name}"
    made.mkdir()
    made.rename(directory / name)


def test_a_rename_into_the_directory_wakes_and_is_named(
    events: DirectoryEvents, directory: Path, woken: WakeUp
) -> None:
    assert events.take() == []
    for name in ("v000000", "v000001"):
        _come(directory, name)
        assert woken.wait(20.0)
        until(lambda name=name: name in events.take())
        woken.clear()
    assert events.take() == []
    assert not woken.wait(0.0)


def test_reads_writes_and_removals_are_no_events(events: DirectoryEvents, directory: Path, woken: WakeUp) -> None:
    _come(directory, "v000000")
    until(events.take)
    woken.clear()
    (directory / ".highest-000001").touch()
    (directory / "v000000" / "file").write_text("text")
    assert (directory / "v000000" / "file").read_text() == "text"
    shutil.rmtree(directory / "v000000")
    assert not woken.wait(0.2)
    assert events.take() == []


def test_there_are_no_events_after_close(events: DirectoryEvents, directory: Path, woken: WakeUp) -> None:
    if events.descriptor is not None:
        woken.unregister(events.descriptor)
    events.close()
    events.close()
    _come(directory, "v000000")
    assert not woken.wait(0.1)
    assert events.take() == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_missing_directory_is_an_error(source: str, tmp_path: Path, woken: WakeUp) -> None:
    with pytest.raises(OSError, match="No such file"):
        _watch(source, tmp_path / "nothing", woken)
    (tmp_path / "file").touch()
    if source == "inotify":
        with pytest.raises(OSError, match="Not a directory"):
            _watch(source, tmp_path / "file", woken)


def test_a_move_of_the_directory_itself_is_an_event(directory: Path, woken: WakeUp) -> None:
    events = watch_directory(directory, woken.set)
    assert isinstance(events, InotifyEvents)
    woken.register(events.descriptor)
    directory.rename(directory.parent / "elsewhere")
    assert woken.wait(20.0)
    assert "" in events.take()
    woken.unregister(events.descriptor)
    events.close()
