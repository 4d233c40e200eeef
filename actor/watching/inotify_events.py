"""Events of a directory by inotify.

Only renames into the directory are events. Files created beside the versions would wake the loader twice for each
version.
"""

import errno
from pathlib import Path

from inotify_simple import INotify, flags  # type: ignore[import-untyped]

_EVENTS = flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
_LIMITS = {
    errno.ENOSPC: "the inotify watch limit is reached (fs.inotify.max_user_watches)",
    errno.EMFILE: "the inotify instance limit is reached (fs.inotify.max_user_instances), or that of open files",
}


class InotifyEvents:
    """Events that the waiting thread reads itself, so that no other thread wakes. See DirectoryEvents."""

    is_alive = True

    def __init__(self, path: Path) -> None:
        """Raise OSError if the system has no watch left, or there is no such directory."""
        self._inotify = None
        try:
            self._inotify = INotify(nonblocking=True)
            self._inotify.add_watch(path, _EVENTS)
        except OSError as error:
            self.close()
            raise OSError(error.errno, _LIMITS.get(error.errno or 0, error.strerror)) from error
        self.descriptor: int = self._inotify.fileno()

    def take(self) -> list[str]:
        return [] if self._inotify is None else [event.name for event in self._inotify.read(timeout=0)]

    def close(self) -> None:
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()
