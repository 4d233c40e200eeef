"""The age of the acting policy: hiding newer versions from an actor can only freeze it, and then the log reports it."""

from collections.abc import Iterator, Sequence

from actor.versions.reports import Report
from shared.policy.manifest import Manifest

STALE_AFTER_S = 600.0


class StalenessMonitor:
    """Reports a store that shows no newer version for ``stale_after_s``, at that interval, or that went back.

    The age counts from the time in the manifest, which the publisher signs, or from the adoption, whichever is older:
    neither clock alone can be trusted for days. It is a warning if ``alarming``, otherwise information, since a store
    without a learner gets no new versions.
    """

    def __init__(self, stale_after_s: float, *, alarming: bool) -> None:
        self.stale_after_s = stale_after_s
        self._level = "WARNING" if alarming else "INFO"
        self._version: int | None = None
        self._since_s = 0.0
        self._reported_at_s = float("-inf")
        self._went_back_to: int | None = None

    def reports(
        self, acting: Manifest | None, known: Sequence[int], now_s: float, now_unix_s: float
    ) -> Iterator[Report]:
        """Return what to log now.

        Args:
            acting: The manifest of the newest adopted version; None before the first.
            known: The versions that the store shows, ascending.
            now_s: The monotonic time.
            now_unix_s: The time since the epoch.
        """
        if acting is None:
            return
        if acting.version != self._version:
            self._version, self._since_s = acting.version, now_s
        newest = known[-1] if known else acting.version
        if newest < acting.version and newest != self._went_back_to:
            yield Report(
                "WARNING",
                f"policy store went back acting={acting.version} newest={newest}: older versions are not adopted; "
                "restart the actor unless this is an older copy of the store",
            )
        self._went_back_to = newest
        age_s = max(now_unix_s - acting.created_unix_s, now_s - self._since_s)
        if age_s >= self.stale_after_s and now_s - self._reported_at_s >= self.stale_after_s:
            self._reported_at_s = now_s
            yield Report(self._level, f"policy version {acting.version} is stale age={describe_age(age_s)}")


def describe_age(age_s: float) -> str:
    """Return an age as ``90 s``, ``15 min``, ``3.2 h`` or ``4.5 days``."""
    for unit, seconds, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.{digits}f} {unit}"
    return f"{max(age_s, 0):.0f} s"
