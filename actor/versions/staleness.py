"""How old what acts is: whoever hides versions from an actor can freeze it and no more, and then it says so."""

from collections.abc import Iterator, Sequence

from shared.policy.manifest import Manifest

STALE_AFTER_S = 600.0

Remark = tuple[str, str]
"""A level of the log, and the line."""


class StalenessMonitor:
    """Remarks on a store that has shown nothing newer for ``stale_after_s``, as often at most, or that went back.

    The age is counted from the time in the manifest, which the publisher signs, or from the adoption, whichever says
    more: neither clock alone can be trusted for days. It is a warning where ``alarming``, else a note: that nothing
    is published any more is usual where nobody trains.
    """

    def __init__(self, stale_after_s: float, *, alarming: bool) -> None:
        self.stale_after_s = stale_after_s
        self._level = "WARNING" if alarming else "INFO"
        self._version: int | None = None
        self._since_s = 0.0
        self._said_at_s = float("-inf")
        self._went_back_to: int | None = None

    def remarks(
        self, acting: Manifest | None, known: Sequence[int], now_s: float, now_unix_s: float
    ) -> Iterator[Remark]:
        """What there is to say now; ``now_s`` is monotonic. ``known``: the versions that the store shows, ascending."""
        if acting is None:
            return
        if acting.version != self._version:
            self._version, self._since_s = acting.version, now_s
        newest = known[-1] if known else acting.version
        if newest < acting.version and newest != self._went_back_to:
            yield "WARNING", _went_back(acting.version, newest)
        self._went_back_to = newest
        age_s = max(now_unix_s - acting.created_unix_s, now_s - self._since_s)
        if age_s >= self.stale_after_s and now_s - self._said_at_s >= self.stale_after_s:
            self._said_at_s = now_s
            yield self._level, _still_acts(acting.version, age_s)


def _went_back(acting: int, newest: int) -> str:
    return (
        f"the newest version in the store is {newest} now, and version {acting} acts: nothing older is adopted. "
        "Where that is no older copy of the store, start this actor anew"
    )


def _still_acts(version: int, age_s: float) -> str:
    return (
        f"version {version} still acts, published {describe_age(age_s)} ago: "
        "the store has shown nothing newer that is fit to act"
    )


def describe_age(age_s: float) -> str:
    """``90 s``, ``15 min``, ``3.2 h``, ``4.5 days``."""
    for unit, seconds, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.{digits}f} {unit}"
    return f"{max(age_s, 0):.0f} s"
