"""The life of a version inside one actor: an enum, its transitions written down, and the table of what happened so far.

    SEEN -> LOADING -> READY -> ACTING -> RETIRED     SEEN -> SKIPPED, READY -> RETIRED (something newer came)
    any -> FAILED (reason, attempts, quarantined or not)

What was set aside may come back: a failure that may pass is tried again, a recovery or a draw from history reaches
for older versions, and the last good version acts again the moment that its successor fails.
"""

import threading
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import Enum


class VersionState(Enum):
    """Where a version stands. Only the loader moves a version to LOADING and READY, only the agent to ACTING."""

    SEEN = "seen"
    SKIPPED = "skipped"
    LOADING = "loading"
    READY = "ready"
    ACTING = "acting"
    RETIRED = "retired"
    FAILED = "failed"


_S = VersionState
TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    _S.SEEN: frozenset({_S.LOADING, _S.SKIPPED, _S.FAILED}),
    _S.SKIPPED: frozenset({_S.LOADING, _S.FAILED}),
    _S.LOADING: frozenset({_S.READY, _S.SKIPPED, _S.FAILED}),
    _S.READY: frozenset({_S.ACTING, _S.RETIRED, _S.FAILED}),
    _S.ACTING: frozenset({_S.RETIRED, _S.FAILED}),
    _S.RETIRED: frozenset({_S.LOADING, _S.ACTING, _S.FAILED}),
    _S.FAILED: frozenset({_S.LOADING, _S.FAILED}),
}

_FAILURES_REMEMBERED = 100


@dataclass
class VersionRecord:
    """What this actor knows of one version. ``retry_at_s`` is on the monotonic clock, None where there is no retry."""

    version: int
    state: VersionState = VersionState.SEEN
    attempts: int = 0
    reason: str | None = None
    quarantined: bool = False
    retry_at_s: float | None = None

    def describe_failure(self) -> str:
        """``version 3: ProbeMismatch: …`` with what comes of it."""
        fate = "quarantined" if self.quarantined else f"{self.attempts} attempts, will be tried again"
        return f"version {self.version} ({fate}): {self.reason}"


class VersionTable:
    """The records of all versions that matter to this actor, safe to use from the loader's and the acting thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[int, VersionRecord] = {}
        self._failed: dict[int, VersionRecord] = {}  # few, while there may be records of thousands of versions
        self._waiting: set[int] = set()
        self._listed: frozenset[int] = frozenset()
        self._bad_digests: dict[str, str] = {}
        self._newest_seen = -1

    def state(self, version: int) -> VersionState | None:
        """Where ``version`` stands, or None where nothing was ever done about it."""
        record = self._records.get(version)
        return None if record is None else record.state

    def move(self, version: int, to: VersionState) -> VersionRecord:
        """Move ``version`` along one of the written transitions; anything else is a fault of this program."""
        with self._lock:
            return self._move(version, to)

    def fail(
        self, version: int, reason: str, *, digest: str | None = None, retry_at_s: float | None = None
    ) -> VersionRecord:
        """``version`` failed. With ``retry_at_s`` it is tried again then; without, it and its ``digest`` never are."""
        with self._lock:
            record = self._move(version, VersionState.FAILED)
            record.attempts += 1
            record.reason = reason
            record.retry_at_s = retry_at_s
            record.quarantined = retry_at_s is None
            if record.quarantined and digest is not None:
                self._bad_digests[digest] = reason
            return record

    def quarantine_reason(self, digest: str) -> str | None:
        """Why this actor does not try ``digest`` again, or None."""
        return self._bad_digests.get(digest)

    def see(self, known: Iterable[int], held: Container[int] = ()) -> None:
        """Take up a new listing, ascending: newer versions become SEEN, all but the newest of them SKIPPED at once.

        Records of versions that the store no longer has are dropped, but for those ``held`` in memory and the last
        failures.
        """
        listed = frozenset(known)
        with self._lock:
            new = sorted(version for version in listed - self._listed if version > self._newest_seen)
            if self._newest_seen < 0:
                new = new[-1:]  # what was there before this actor began was never of interest to it
            for version in new:
                if self._records.setdefault(version, VersionRecord(version)).state is _S.SEEN:
                    self._waiting.add(version)
            for version in [v for v in self._waiting if new and v < new[-1]]:
                self._waiting.discard(version)
                self._records[version].state = _S.SKIPPED
            self._newest_seen = max((self._newest_seen, *new))
            self._listed = listed
            self._forget(listed, held)

    def attempts(self, version: int) -> int:
        """How often ``version`` has failed so far."""
        record = self._records.get(version)
        return 0 if record is None else record.attempts

    def unusable(self, now_s: float) -> frozenset[int]:
        """Versions not to be tried at ``now_s``: failed for good, or not due yet."""
        with self._lock:
            return frozenset(
                version
                for version, record in self._failed.items()
                if record.retry_at_s is None or record.retry_at_s > now_s
            )

    def next_retry_s(self, now_s: float) -> float | None:
        """Seconds from ``now_s`` to the next retry that is not due yet, or None where there is none."""
        with self._lock:
            waits = [record.retry_at_s - now_s for record in self._failed.values() if record.retry_at_s is not None]
        return min((wait for wait in waits if wait > 0), default=None)

    def failures(self) -> list[VersionRecord]:
        """The versions that stand at FAILED, newest first."""
        with self._lock:
            failed = list(self._failed.values())
        return sorted(failed, key=lambda record: -record.version)

    def _move(self, version: int, to: VersionState) -> VersionRecord:
        record = self._records.setdefault(version, VersionRecord(version))
        if to not in TRANSITIONS[record.state]:
            raise RuntimeError(f"version {version} cannot go from {record.state.name} to {to.name}")
        record.state = to
        self._waiting.discard(version)
        if to is _S.FAILED:
            self._failed[version] = record
        else:
            self._failed.pop(version, None)
        if to is _S.LOADING:
            record.retry_at_s = None
        return record

    def _forget(self, listed: frozenset[int], held: Container[int]) -> None:
        unlisted = self._records.keys() - listed
        gone = [v for v in unlisted if v not in held and self._records[v].state is not _S.LOADING]
        kept = frozenset(sorted(v for v in gone if v in self._failed)[-_FAILURES_REMEMBERED:])
        for version in gone:
            if version not in kept:
                del self._records[version]
                self._failed.pop(version, None)
                self._waiting.discard(version)
