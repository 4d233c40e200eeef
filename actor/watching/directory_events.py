"""Events of the operating system for one directory: by inotify on Linux, by watchdog elsewhere.

The events of most file systems cover every change; those of shared file systems lack the changes by other machines.
"""

import errno
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped]

_LIMITS = {
    errno.ENOSPC: "the inotify watch limit is reached (fs.inotify.max_user_watches)",
    errno.EMFILE: "the inotify instance limit is reached (fs.inotify.max_user_instances), or that of open files",
}
# Their events cover only changes by this machine, and a learner is often on another one. FUSE carries most of the rest
# (sshfs, GlusterFS, buckets), as fuse.sshfs and so on.
_SHARED = (
    "9p afpfs afs beegfs ceph cifs coda fuse fuseblk gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 prl_fs smb smb2 smb3 smbfs "
    "vboxsf virtiofs vmhgfs webdav"
)
# They change only through the watched mount itself. An overlay's layers can be changed below it.
_LOCAL = "bcachefs btrfs exfat ext2 ext3 ext4 f2fs jfs nilfs2 ramfs reiserfs tmpfs vfat xfs zfs"


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


class InotifyEvents:
    """Events that the waiting thread reads itself, so that no other thread wakes. See DirectoryEvents.

    Only renames into the directory are events: files created beside a version would wake the loader once more for it.
    """

    is_alive = True

    def __init__(self, path: Path) -> None:
        """Raise OSError if the system has no watch left, or there is no such directory."""
        from inotify_simple import INotify, flags  # type: ignore[import-untyped]

        self._inotify = None
        try:
            self._inotify = INotify(nonblocking=True)
            self._inotify.add_watch(path, flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR)
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


def watch_directory(path: Path, on_change: Callable[[], None]) -> DirectoryEvents:
    """Return the events of ``path`` from the best source of this system. Raise OSError if it cannot be watched."""
    if sys.platform == "linux":
        return InotifyEvents(path)
    from actor.watching.observer_events import ObserverEvents

    return ObserverEvents(path, on_change)


def shared_file_system(path: Path) -> str | None:
    """Return the type of the file system of ``path`` if other machines may change it, else None."""
    kind = _type_below(path)
    return kind if kind in _SHARED.split() or kind.startswith("fuse.") else None


def reports_all_changes(path: Path) -> bool:
    """Return True when the events of the file system of ``path`` are known to cover every change."""
    return _type_below(path) in _LOCAL.split()


def _type_below(path: Path) -> str:
    mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    return file_system_type(path.resolve(), mounts)


def file_system_type(path: Path, mounts: Iterable[tuple[Path, str]]) -> str:
    """Return the type of the innermost mount that holds the absolute ``path``, the last of equals, or ""."""
    holding = ((len(where.parts), i, kind) for i, (where, kind) in enumerate(mounts) if path.is_relative_to(where))
    return max(holding, default=(0, 0, ""))[2]
