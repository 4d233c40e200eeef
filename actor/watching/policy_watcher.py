"""Notices new versions in a policy store: file events, a slow rescan for what they miss, polling elsewhere."""

import math
import os
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from actor.watching.directory_events import DirectoryEvents, watch_directory
from actor.watching.file_systems import shared_file_system, tells_of_all
from actor.watching.wake_up import WakeUp
from shared.errors import StoreUnavailable
from shared.store.policy_store import PolicyStore, parse_version_name

# A listing is skipped only where the directory was last changed this long before the last listing: coarser clocks than
# these seconds are not in use, and a change within one tick of the clock leaves the same time behind.
_SETTLED_S = 2.0
_LIST_ANYWAY_S = 30.0
_OBSERVE_AGAIN_S = 30.0
# Where events tell of all but that a directory far above was moved, or another file system mounted: as long as the last
# listing was of a directory that changes, and after that.
_RESCAN_SURE_S, _RESCAN_SETTLED_S = 5.0, 30.0
# Listing a store of many versions takes long: where events tell of what comes, it takes this part of the time at most.
_LISTING_SHARE = 1 / 500


class PolicyWatcher:
    """Knows which versions there are.

    Events end a wait for ``wake``, in which store I/O belongs to whoever waits: that thread calls ``check`` then, and
    every ``interval_s``, since events get lost, and are not to be had on network file systems, for object stores or
    when the system has no watches left: after ``poll_s`` then, after ``rescan_s`` where a file system is neither known
    to be without nor to tell of everything. All but ``announce`` belongs to that thread.
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
        self._wants_events = False
        self.is_delegated = False
        """Whether somebody else watches."""
        self._events: DirectoryEvents | None = None
        self._watched_inode: tuple[int, int] | None = None
        self._is_told_all = False
        self._observe_again_at_s = 0.0
        self._said: str | None = None
        self._announced: deque[int] = deque()
        self._listed_at_s = float("-inf")
        self._listing_took_s = 0.0
        self._listed_as: _Directory | None = None

    @property
    def has_events(self) -> bool:
        """Whether file events arrive, so that checking seldom is enough."""
        return self._events is not None

    @property
    def _is_sure(self) -> bool:
        """Whether events tell of everything that comes."""
        return self.has_events and self._is_told_all

    @property
    def has_listed(self) -> bool:
        """Whether ``known`` was ever read from the store; before that it is empty whatever is there."""
        return math.isfinite(self._listed_at_s)

    @property
    def is_listing_due(self) -> bool:
        """Whether the last listing is a while ago: only another one tells which versions were swept."""
        since_s = time.monotonic() - self._listed_at_s
        return since_s >= max(self._rescan_s, self._listing_took_s / _LISTING_SHARE)

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of ``check`` without any event: ``rescan_s`` with events or for a remote store.

        More where events are known to tell of everything: idle actors should cost nothing.
        """
        if self._is_sure:
            return max(self._rescan_s, _RESCAN_SURE_S if self._listed_as is None else _RESCAN_SETTLED_S)
        is_told = self.has_events or self.is_delegated
        return self._rescan_s if is_told or self._path is None else self._poll_s

    def start(self) -> None:
        """Begin to receive events where that is possible; never raises for the lack of them."""
        if self._path is None:
            return
        self._wants_events, self.is_delegated = True, False
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("{} cannot be made ({}): looking for it every {} s", self._path, error, self._poll_s)
        self._keep_observing()

    def delegate(self) -> None:
        """Somebody else watches from now on, and will ``announce`` what comes; ``start`` ends that."""
        if not self.is_delegated:
            self.stop()
            self.is_delegated = True

    def announce(self, version: int) -> None:
        """``version`` was committed: ``check`` takes that as it is. Any thread may call this."""
        self._announced.append(version)

    def check(self, *, force: bool = False) -> bool:
        """Learn of new versions; True where ``known`` changed. Raises StoreUnavailable.

        A version that an event named is taken as it is; else the store is listed again where it may have changed, which
        costs one ``stat`` where its directory has not been touched since the last listing. ``force`` lists in any case.
        """
        is_same_directory = self._keep_observing()
        self.hear()
        was_told = self._take_announced() and is_same_directory
        if was_told and not force and not self.is_delegated:
            return True  # whoever sees to these checks again
        directory = _look_at(self._path) if self._path is not None else None
        if not force and not self._should_list(directory, was_watched=is_same_directory):
            return was_told
        settled = directory is not None and directory.changed_ns + _SETTLED_S * 1e9 < time.time_ns()
        began_s = time.monotonic()
        known = tuple(self._store.versions())
        self._listed_as = directory if settled else None
        self._listed_at_s = time.monotonic()
        self._listing_took_s = self._listed_at_s - began_s
        changed = was_told or known != self.known
        self.known = known
        return changed

    def hear(self) -> None:
        """Take what events tell: what is not taken would end the next wait too."""
        for name in [] if self._events is None else self._events.take():
            if (version := parse_version_name(name)) is not None:
                self._announced.append(version)

    def is_untouched(self) -> bool:
        """Whether ``check`` would learn nothing, as far as a single ``stat`` can tell. Never raises."""
        if self._listed_as is None or self._announced or self._path is None:
            return False
        if not self._is_sure and time.monotonic() - self._listed_at_s >= _LIST_ANYWAY_S:
            return False
        try:
            return _look_at(self._path) == self._listed_as
        except StoreUnavailable:
            return False

    def _take_announced(self) -> bool:
        """Whether events named versions that were not known yet. Only a listing tells that others were removed."""
        announced = set()
        while self._announced:
            announced.add(self._announced.popleft())
        newest = self.known[-1] if self.known else -1
        new = sorted(version for version in announced if version > newest)
        if not self.has_listed:
            return False  # what was there before the events is not known
        self.known = (*self.known, *new)
        return bool(new)

    def _should_list(self, directory: "_Directory | None", *, was_watched: bool) -> bool:
        if directory is not None and directory == self._listed_as:
            return time.monotonic() - self._listed_at_s >= _LIST_ANYWAY_S
        return not was_watched or self.is_listing_due

    def stop(self) -> None:
        """Stop receiving events. Idempotent."""
        self._wants_events = False
        self._end_watch()

    def _end_watch(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            if events.descriptor is not None:
                self._wake.ignore(events.descriptor)
            events.close()

    def _keep_observing(self) -> bool:
        """Watch the directory that is there now: it may have been removed, and come back as another one.

        Whether it is the one that was watched before.
        """
        if self._path is None or not (self._wants_events or self.is_delegated):
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
            self._begin_watch(self._path)
            self._watched_inode = inode
            self._said = None
        except OSError as error:
            self._observe_again_at_s = time.monotonic() + _OBSERVE_AGAIN_S
            self._say_once(f"no file events for {self._path} ({error}): polling every {self._poll_s} s")
        return False

    def _say_once(self, message: str) -> None:
        """It is tried again and again, and mostly fails for the same reason."""
        if message != self._said:
            logger.warning(message)
            self._said = message

    def _begin_watch(self, path: Path) -> None:
        """Raises OSError where there are no events to be had, or none for what others do."""
        if (kind := shared_file_system(path)) is not None:
            raise OSError(f"{kind} tells nobody of what other machines change")
        self._events = watch_directory(path, self._wake.set)
        self._is_told_all = tells_of_all(path)
        if self._events.descriptor is not None:
            self._wake.register(self._events.descriptor)


class _Directory(NamedTuple):
    """Which directory it is, and when something in it was last made, removed or renamed."""

    device: int
    inode: int
    changed_ns: int


def _look_at(path: Path) -> _Directory | None:
    """None where there is none. Raises StoreUnavailable."""
    try:
        status = os.stat(path)  # noqa: PTH116 - cheaper than a Path's, and all that an idle actor does
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    return _Directory(status.st_dev, status.st_ino, status.st_mtime_ns)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
