"""Failed contents, reported to the other actors of the store and to later actors on this machine."""

from collections import deque
from collections.abc import Callable

from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.reports import Reports
from shared.errors import StoreError
from shared.store.policy_store import PolicyStore

_MAX_PENDING = 1000


class QuarantineReporter:
    """Collects failures from any thread; the loader thread writes them to the store and to the cache, if any."""

    def __init__(self, store: PolicyStore, cache: QuarantineCache | None, name: str, reports: Reports) -> None:
        self._store = store
        self._cache = cache
        self._name = name
        self._reports = reports
        self._to_share: deque[tuple[str, str]] = deque(maxlen=_MAX_PENDING)
        self._to_cache: deque[tuple[str, str]] = deque(maxlen=_MAX_PENDING)

    def failed_to_load(self, digest: str, reason: str) -> None:
        """Report a content that did not load. It is not cached: that may depend on the options of this actor."""
        self._to_share.append((digest, reason))

    def failed_while_acting(self, digest: str, reason: str) -> None:
        """Report a content whose fault only acting could show."""
        self._to_share.append((digest, reason))
        self._to_cache.append((digest, reason))

    def ended_processes(self, digest: str, reason: str) -> None:
        """Report a content that ended earlier processes. It is cached at once: this process may be killed soon, too."""
        self._to_share.append((digest, reason))
        self._to_cache.append((digest, reason))
        self._write_cache()

    def cached_reason(self, digest: str) -> str | None:
        """Return the reason for which an earlier actor on this machine quarantined ``digest``, or None."""
        found = None if self._cache is None else self._cache.reason(digest)
        return None if found is None else f"{found} (found by an earlier actor on this machine)"

    def share(self, notify: Callable[[str, str], None]) -> None:
        """Write the collected failures to the store and to the cache, and pass the digest and reason to ``notify``."""
        while self._to_share:
            digest, reason = self._to_share.popleft()
            notify(digest, reason)
            try:
                self._store.quarantine(digest, reason, self._name)
            except StoreError as error:
                self._reports.add("WARNING", f"quarantine not shared digest={digest[:12]} error={error}")
        self._write_cache()

    def _write_cache(self) -> None:
        while self._cache is not None and self._to_cache:
            digest, reason = self._to_cache.popleft()
            if not self._cache.add(digest, reason, self._name):  # a full disk may have room later
                self._to_cache.appendleft((digest, reason))
                return
