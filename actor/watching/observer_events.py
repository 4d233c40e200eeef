"""Events of a directory by watchdog."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from watchdog.events import DirCreatedEvent, DirMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer


class ObserverEvents:
    """Events that watchdog's threads receive, with a call of ``on_change`` for each. See DirectoryEvents."""

    descriptor = None

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        """Raise OSError if the system has no watch left, or there is no such directory."""
        self._names: deque[str] = deque()
        self._observer = Observer()
        self._observer.start()
        try:
            # Reads and removals must wake no thread.
            handler = _Handler(self._names, on_change)
            self._observer.schedule(handler, str(path), event_filter=[DirCreatedEvent, DirMovedEvent])
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)

    def take(self) -> list[str]:
        return [self._names.popleft() for _ in range(len(self._names))]

    def close(self) -> None:
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join(timeout=2.0)


class _Handler(FileSystemEventHandler):
    def __init__(self, names: deque[str], on_change: Callable[[], None]) -> None:
        self._names = names
        self._on_change = on_change

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._names.append(Path(os.fsdecode(event.dest_path or event.src_path)).name)
        self._on_change()
