"""The news of contents that failed: for others it goes into the store, for later actors on this machine into memory."""

from collections import deque
from collections.abc import Callable

from actor.canary.canary_evaluation import CanaryEvaluation
from actor.versions.quarantine_cache import QuarantineCache
from shared.errors import StoreError
from shared.store.policy_store import PolicyStore

_KEPT = 1000


class QuarantineReporter:
    """Any thread may say that something failed; the rest belongs to the loader's thread."""

    def __init__(
        self,
        store: PolicyStore,
        remembered: QuarantineCache | None,
        name: str,
        report: Callable[[str, str], None],
    ) -> None:
        """``report`` takes a level and a line for the log."""
        self._store = store
        self._remembered = remembered
        self._name = name
        self._report = report
        self._for_others: deque[tuple[str, str]] = deque(maxlen=_KEPT)
        self._for_later: deque[tuple[str, str]] = deque(maxlen=_KEPT)

    def failed_to_load(self, digest: str, reason: str) -> None:
        """That depends on this actor's flags as well, and later ones here find it again anyway."""
        self._for_others.append((digest, reason))

    def failed_while_acting(self, digest: str, reason: str) -> None:
        """That only acting could tell."""
        self._for_others.append((digest, reason))
        self._for_later.append((digest, reason))

    def from_before(self, digest: str) -> str | None:
        """Why ``digest`` is not tried again, found out by an actor on this machine that is gone maybe; or None."""
        found = None if self._remembered is None else self._remembered.reason(digest)
        return None if found is None else f"{found} (an actor on this machine found that before)"

    def pass_on(self, canary: CanaryEvaluation | None) -> None:
        """Share it through the store; one that cannot be written to is no reason to stop. ``canary`` is told too."""
        while self._for_others:
            digest, reason = self._for_others.popleft()
            if canary is not None:
                canary.failed(digest, reason)
            try:
                self._store.quarantine(digest, reason, self._name)
            except StoreError as error:
                self._report("WARNING", f"could not share the quarantine of {digest[:12]}: {error}")
        while self._for_later:
            digest, reason = self._for_later.popleft()
            if self._remembered is not None:
                self._remembered.add(digest, reason, self._name)
