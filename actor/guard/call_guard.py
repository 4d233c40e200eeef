"""The guard of an agent's calls: their record, their deadline, and the contents that ended earlier processes."""

from collections.abc import Callable, Hashable
from pathlib import Path

from actor.guard.acting_record import ActingRecord
from actor.guard.call_deadline import CallDeadline
from actor.guard.record_place import record_place
from actor.guard.unclean_ends import UncleanEnd, UncleanEnds

HEALTHY_AFTER_S = 600.0
"""A content that acted for so long, until its agent closed, has not ended any process so far: its count is cleared."""


class CallGuard:
    """Guards the calls of one agent.

    Args:
        cache_directory: A directory of this user for the counts. None: nothing is recorded or counted.
        deadline_s: See ``CallDeadline``.
    """

    def __init__(self, cache_directory: Path | None, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._deadline: CallDeadline | None = None
        self._ends: UncleanEnds | None = None
        place = None
        if cache_directory is not None:
            place = record_place(cache_directory)
            self._ends = UncleanEnds(cache_directory / "unclean-ends")
        self.earlier_ends: list[UncleanEnd] = [] if self._ends is None or place is None else self._ends.take(place)
        """The processes that ended by the fault of a content, and were not counted before."""
        self._record = ActingRecord(place)
        self.calling = self._record.calling
        """Item 0 has to be 1 during each call, else 0."""
        self.adopted = self._record.adopted
        """Call it with version, digest and engine before their first call."""

    @property
    def crash_report(self) -> int | None:
        """The file descriptor for ``faulthandler.enable``; None without a record."""
        return self._record.crash_report

    def start(self, calls: Callable[[], Hashable]) -> None:
        """Watch the calls. ``calls`` returns a value that differs from call to call."""
        if self._deadline_s or self._record.crash_report is not None:
            self._deadline = CallDeadline(self._record, calls, self._deadline_s)

    def close(self) -> None:
        """Remove the record: acting ends in order. Idempotent."""
        if self._deadline is not None:
            self._deadline.close()
            if self._deadline.healthy_s >= HEALTHY_AFTER_S and self._ends is not None:
                self._ends.clear(self._record.content[1])
        self._record.close()
