"""The life of a version inside one actor: its states, the transitions between them, and the table of all records.

    SEEN -> LOADING -> LOADED      SEEN, LOADING -> SKIPPED (a newer version came)
    any -> FAILED                  SKIPPED, LOADED, FAILED -> LOADING

A loaded version is ready, acts, is the last good one, or is held no more: that is its role in the ``PolicyManager``
and is stored nowhere else. A version is loaded again after a failure that may pass, for a recovery, and for a draw
from history.
"""

import threading
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import Enum


class VersionState(Enum):
    """The result of loading a version so far."""

    SEEN = "seen"
    SKIPPED = "skipped"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


_S = VersionState
TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    _S.SEEN: frozenset({_S.LOADING, _S.SKIPPED, _S.FAILED}),
    _S.SKIPPED: frozenset({_S.LOADING, _S.FAILED}),
    _S.LOADING: frozenset({_S.LOADED, _S.SKIPPED, _S.FAILED}),
    _S.LOADED: frozenset({_S.LOADING, _S.FAILED}),
    _S.FAILED: frozenset({_S.LOADING, _S.FAILED}),
}

_MAX_UNLISTED_FAILURES = 100


@dataclass
class VersionRecord:
    """The record of one version. ``retry_at_s`` is on the monotonic clock; None without a retry."""

    version: int
    state: VersionState = VersionState.SEEN
    attempts: int = 0
    reason: str | None = None
    quarantined: bool = False
    retry_at_s: float | None = None

    def describe_failure(self) -> str:
        """Return ``version 3 (quarantined): ProbeMismatch: …``."""
        fate = "quarantined" if self.quarantined else f"{self.attempts} attempts, will be tried again"
        return f"version {self.version} ({fate}): {self.reason}"


class VersionTable:
    """The records of the versions that matter to one actor. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[int, VersionRecord] = {}
        self._failed: dict[int, VersionRecord] = {}  # those in FAILED: few of maybe thousands
        self._listed: frozenset[int] = frozenset()
        self._bad_digests: dict[str, str] = {}
        self._newest_seen = -1

    def state(self, version: int) -> VersionState | None:
        """Return the state of ``version``; None without a record."""
        record = self._records.get(version)
        return None if record is None else record.state

    def move(self, version: int, to: VersionState) -> None:
        """Move ``version`` to another state. Raises RuntimeError unless ``TRANSITIONS`` has that move."""
        with self._lock:
            self._move(version, to)

    def fail(self, version: int, reason: str, *, digest: str | None = None, retry_at_s: float | None = None) -> None:
        """Record a failure of ``version``: with ``retry_at_s`` until then, without it for good.

        A failure for good also quarantines ``digest`` in this actor.
        """
        with self._lock:
            record = self._move(version, VersionState.FAILED)
            record.attempts += 1
            record.reason = reason
            record.retry_at_s = retry_at_s
            record.quarantined = retry_at_s is None
            if record.quarantined and digest is not None:
                self._bad_digests[digest] = reason

    def quarantine_reason(self, digest: str) -> str | None:
        """Return the reason for which this actor does not load ``digest``, or None."""
        return self._bad_digests.get(digest)

    def quarantine(self, digest: str, reason: str) -> None:
        """Quarantine a content of which no version was seen yet."""
        with self._lock:
            self._bad_digests[digest] = reason

    def see(self, known: Iterable[int], held: Container[int] = ()) -> None:
        """Record a new listing: newer versions become SEEN, all but the newest of them SKIPPED at once.

        Records of versions that are no longer listed are dropped, except for those ``held`` in memory, those being
        loaded, and the last failures. Of the first listing only the newest version is recorded.
        """
        listed = frozenset(known)
        with self._lock:
            new = sorted(version for version in listed - self._listed if version > self._newest_seen)
            if self._newest_seen < 0:
                new = new[-1:]
            for version in new:
                self._records.setdefault(version, VersionRecord(version))
            if new:
                for version in (self._newest_seen, *new[:-1]):
                    if self.state(version) is _S.SEEN:
                        self._move(version, _S.SKIPPED)
                self._newest_seen = new[-1]
            self._listed = listed
            self._forget_unlisted(held)

    def attempts(self, version: int) -> int:
        """Return how often ``version`` has failed so far."""
        record = self._records.get(version)
        return 0 if record is None else record.attempts

    def unusable(self, now_s: float) -> frozenset[int]:
        """Return the versions that failed for good, or whose retry is not due at ``now_s``."""
        with self._lock:
            return frozenset(
                version
                for version, record in self._failed.items()
                if record.retry_at_s is None or record.retry_at_s > now_s
            )

    def next_retry_s(self, now_s: float) -> float | None:
        """Return the seconds from ``now_s`` to the next retry that is not due yet; None without one."""
        with self._lock:
            waits = [record.retry_at_s - now_s for record in self._failed.values() if record.retry_at_s is not None]
        return min((wait for wait in waits if wait > 0), default=None)

    def failures(self) -> list[VersionRecord]:
        """Return the records in FAILED, newest version first."""
        with self._lock:
            failed = list(self._failed.values())
        return sorted(failed, key=lambda record: -record.version)

    def _move(self, version: int, to: VersionState) -> VersionRecord:
        record = self._records.get(version) or VersionRecord(version)
        if to not in TRANSITIONS[record.state]:
            raise RuntimeError(f"version {version} cannot go from {record.state.name} to {to.name}")
        self._records[version] = record
        record.state = to
        if to is _S.FAILED:
            self._failed[version] = record
        else:
            self._failed.pop(version, None)
        return record

    def _forget_unlisted(self, held: Container[int]) -> None:
        unlisted = self._records.keys() - self._listed
        gone = [v for v in unlisted if v not in held and self._records[v].state is not _S.LOADING]
        kept = frozenset(sorted(v for v in gone if v in self._failed)[-_MAX_UNLISTED_FAILURES:])
        for version in gone:
            if version not in kept:
                del self._records[version]
                self._failed.pop(version, None)
