"""Events of the operating system for one directory: by inotify on Linux, by watchdog elsewhere."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class DirectoryEvents(Protocol):
    """The names that are renamed into a directory, from the construction to ``close``. For one thread."""

    @property
    def descriptor(self) -> int | None:
        """A descriptor that is readable when there are names, or None if ``on_change`` is called instead."""

    @property
    def is_alive(self) -> bool:
        """True while events can arrive."""

    def take(self) -> list[str]:
        """Return the names since the last call; an empty one stands for a change of the directory itself."""

    def close(self) -> None:
        """Stop watching. Idempotent."""


def watch_directory(path: Path, on_change: Callable[[], None]) -> DirectoryEvents:
    """Return the events of ``path`` from the best source of this system. Raise OSError if it cannot be watched."""
    if sys.platform == "linux":
        from actor.watching.inotify_events import InotifyEvents

        return InotifyEvents(path)
    from actor.watching.observer_events import ObserverEvents

    return ObserverEvents(path, on_change)
