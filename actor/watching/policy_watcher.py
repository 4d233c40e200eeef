"""Detection of new versions in a policy store: file events with a slow rescan, or polling without events."""

import math
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from loguru import logger

from actor.watching.directory_events import DirectoryEvents, reports_all_changes, shared_file_system, watch_directory
from actor.watching.wake_up import WakeUp
from shared.errors import StoreUnavailable, one_line
from shared.store.policy_store import PolicyStore, parse_version_name
from shared.store.version_numbers import is_plausible

# A directory's time of change is trusted only if it was this old at the last listing: a change within the same tick of
# the file system's clock leaves the time as it is, and no clock is coarser than this.
_SETTLED_S = 2.0
_LIST_ANYWAY_S = _OBSERVE_AGAIN_S = 30.0
# The rescans for changes that have no event, such as a move of a directory far above or a mount: while the directory
# changes, and after that.
_RESCAN_SURE_S, _RESCAN_SETTLED_S = 5.0, 30.0
# With events the listings, which take long in a store of many versions, take at most this share of the time.
_LISTING_SHARE = 1 / 500
_Directory = tuple[int, int, int]  # device, inode, and the time in ns of the last creation, removal or renaming


class PolicyWatcher:
    """Holds the list of versions of a store.

    One thread uses a watcher; only ``announce`` may be called by others. That thread waits for ``wake`` for at most
    ``interval_s`` and then calls ``check``. Events end the wait. Without events (network file systems, no watches left)
    the interval is ``poll_s``; with events, which may get lost, and for object stores it is ``rescan_s`` or more.
    """

    def __init__(
        self, store: PolicyStore, wake: WakeUp | None = None, *, rescan_s: float = 1.0, poll_s: float = 0.25
    ) -> None:
        self.known: tuple[int, ...] = ()
        self._store = store
        self._wake = wake or WakeUp()
        self._rescan_s = rescan_s
        self._poll_s = poll_s
        self._path = store.watch_path
        self._is_started = self.is_delegated = False
        self._events: DirectoryEvents | None = None
        self._watched_inode: tuple[int, int] | None = None
        self._events_cover_all = False
        self._observe_again_at_s = 0.0
        self._last_warning: str | None = None
        self._announced: deque[int] = deque()
        self._listed_at_s = float("-inf")
        self._listing_took_s = 0.0
        self._listed_as: _Directory | None = None

    @property
    def has_events(self) -> bool:
        """True while file events arrive."""
        return self._events is not None

    @property
    def has_listed(self) -> bool:
        """True when ``known`` was read from the store at least once."""
        return math.isfinite(self._listed_at_s)

    @property
    def is_listing_due(self) -> bool:
        """True when the last listing is old. Only a listing shows which versions were removed."""
        since_s = time.monotonic() - self._listed_at_s
        return since_s >= max(self._rescan_s, self._listing_took_s / _LISTING_SHARE)

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of ``check`` without an event; long if events are known to cover every change."""
        if self.has_events and self._events_cover_all:
            return max(self._rescan_s, _RESCAN_SURE_S if self._listed_as is None else _RESCAN_SETTLED_S)
        has_source = self.has_events or self.is_delegated
        return self._rescan_s if has_source or self._path is None else self._poll_s

    def start(self) -> None:
        """Start to receive events, if there are any to be had."""
        if self._path is None:
            return
        self._is_started, self.is_delegated = True, False
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("store directory cannot be created; polling path={} error={}", self._path, error)
        self._keep_observing()

    def delegate(self) -> None:
        """Leave the events to another process, which will ``announce`` versions, until ``start``."""
        if not self.is_delegated:
            self.stop()
            self.is_delegated = True

    def announce(self, version: int) -> None:
        """Report that ``version`` was committed; the next ``check`` adds it. Any thread may call this."""
        self._announced.append(version)

    def check(self, *, force: bool = False) -> bool:
        """Update ``known``; return True when it changed. Raise StoreUnavailable if the store cannot be listed.

        Versions that events name are added without a listing. Otherwise the store is listed if it may have changed, or
        with ``force``; an unchanged directory costs one ``stat``.
        """
        is_same_directory = self._keep_observing()
        self.read_events()
        has_new = self._take_announced() and is_same_directory
        if has_new and not force and not self.is_delegated:
            return True  # the caller loads the versions and checks again
        directory = _look_at(self._path) if self._path is not None else None
        if directory is not None and directory == self._listed_as:
            is_due = time.monotonic() - self._listed_at_s >= _LIST_ANYWAY_S
        else:
            is_due = not is_same_directory or self.is_listing_due
        if not force and not is_due:
            return has_new
        settled = directory is not None and directory[2] + _SETTLED_S * 1e9 < time.time_ns()
        began_s = time.monotonic()
        known = tuple(self._store.versions())
        self._listed_as = directory if settled else None
        self._listed_at_s = time.monotonic()
        self._listing_took_s = self._listed_at_s - began_s
        changed = has_new or known != self.known
        self.known = known
        return changed

    def read_events(self) -> None:
        """Read the pending events, which would end the next wait too."""
        try:
            names = [] if self._events is None else self._events.take()
        except Exception as error:  # noqa: BLE001 - without events the store is polled
            self._poll_instead(error)
            return
        for name in names:
            if (version := parse_version_name(name)) is not None:
                self._announced.append(version)

    def is_untouched(self) -> bool:
        """Return True when ``check`` would find nothing new, as far as one ``stat`` shows. Never raises."""
        if self._listed_as is None or self._announced or self._path is None:
            return False
        is_sure = self.has_events and self._events_cover_all
        if is_sure or time.monotonic() - self._listed_at_s < _LIST_ANYWAY_S:
            with suppress(StoreUnavailable):
                return _look_at(self._path) == self._listed_as
        return False

    def _take_announced(self) -> bool:
        """Add the versions that events named; return True when there are new ones."""
        announced = {self._announced.popleft() for _ in range(len(self._announced))}
        newest = self.known[-1] if self.known else -1
        # A listing decides about a number that jumps.
        new = sorted(version for version in announced if version > newest and is_plausible(version, newest))
        if not self.has_listed:
            return False  # a listing has to find the older versions first
        self.known = (*self.known, *new)
        return bool(new)

    def stop(self) -> None:
        """Stop receiving events. Idempotent."""
        self._is_started = False
        self._end_watch()

    def _end_watch(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            if events.descriptor is not None:
                self._wake.unregister(events.descriptor)
            events.close()

    def _keep_observing(self) -> bool:
        """Watch the present directory, which may have been removed and replaced; return True if it is the same one."""
        if self._path is None or not (self._is_started or self.is_delegated):
            return False
        inode = _inode(self._path)
        if self.is_delegated:
            return inode == self._watched_inode
        if self._events is not None:
            if inode == self._watched_inode and self._events.is_alive:
                return True
            self._end_watch()
            self._observe_again_at_s = 0.0
        if inode is None or time.monotonic() < self._observe_again_at_s:
            return False
        try:
            if (kind := shared_file_system(self._path)) is not None:
                raise OSError(f"{kind} has no events for changes by other machines")
            self._events = watch_directory(self._path, self._wake.set)
            self._events_cover_all = reports_all_changes(self._path)
            if self._events.descriptor is not None:
                self._wake.register(self._events.descriptor)
            self._watched_inode, self._last_warning = inode, None
        except Exception as error:  # noqa: BLE001 - without events the store is polled
            self._poll_instead(error)
        return False

    def _poll_instead(self, error: Exception) -> None:
        """Stop watching for a while, after one warning for each error."""
        self._end_watch()
        self._observe_again_at_s = time.monotonic() + _OBSERVE_AGAIN_S
        reason = one_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {one_line(error)}"
        message = f"no file events; polling path={self._path} poll_s={self._poll_s} error={reason}"
        if message != self._last_warning:
            logger.warning("{}", message)
        self._last_warning = message


def _look_at(path: Path) -> _Directory | None:
    """Return None if there is no directory. Raise StoreUnavailable for other errors."""
    try:
        status = os.stat(path)  # noqa: PTH116 - cheaper than Path.stat, and an idle actor's only work
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(StoreUnavailable):
        directory = _look_at(path)
        return None if directory is None else directory[:2]
    return None
