"""What comes into a directory, as the system tells: by inotify on Linux, elsewhere by watchdog."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class DirectoryEvents(Protocol):
    """What is renamed into one directory, from when this was made until ``close``. One thread calls all of this."""

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when there is something to take; None where ``on_change`` is called instead."""

    @property
    def is_alive(self) -> bool:
        """Whether more can come."""

    def take(self) -> list[str]:
        """The names that came since the last call; an empty one where something happened to the directory itself."""

    def close(self) -> None:
        """Idempotent."""


def watch_directory(path: Path, on_change: Callable[[], None]) -> DirectoryEvents:
    """The best there is on this system. Raises OSError where nothing can be heard of ``path``."""
    if sys.platform == "linux":
        from actor.watching.inotify_events import InotifyEvents

        return InotifyEvents(path)
    from actor.watching.observer_events import ObserverEvents

    return ObserverEvents(path, on_change)
