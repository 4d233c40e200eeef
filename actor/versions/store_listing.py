"""The versions that a store shows, and what happens while it does not answer."""

import math
import time

from actor.versions.policy_manager import PolicyManager
from actor.versions.reports import Reports
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.errors import StoreError, one_line
from shared.retry import RetrySchedule
from shared.store.policy_store import PolicyStore


class StoreListing:
    """Keeps the version table up to date with the store. Only the loader thread uses it, except for ``wake``."""

    def __init__(self, store: PolicyStore, manager: PolicyManager, reports: Reports) -> None:
        self.store = store
        self.wake = WakeUp()
        """Set when the loader thread may have something to do."""
        self.watcher = PolicyWatcher(store, self.wake)
        self.fault: str | None = None
        """The error of the store while it does not answer."""
        self._manager = manager
        self._reports = reports
        self._retry = RetrySchedule()
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def known(self) -> tuple[int, ...]:
        """The versions of the last listing, ascending."""
        return self.watcher.known

    def look(self, *, force: bool = False) -> bool:
        """List the store if it may have changed. Return False if it does not answer, or a retry is not due yet."""
        if time.monotonic() < self._retry_at_s:
            return False
        try:
            changed = self.watcher.check(force=force)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the store is listed again later
            self._failed(error)
            return False
        if self.fault is not None:
            self._reports.add("INFO", f"policy store answers again store={self.store}")
        self.fault, self._failures, self._retry_at_s = None, 0, 0.0
        if changed:
            self._manager.versions.see(self.known, self._manager.versions_in_memory())
        return True

    def next_retry_s(self) -> float:
        """Return the seconds to the next retry of the store; infinity without one."""
        wait_s = self._retry_at_s - time.monotonic()
        return wait_s if wait_s > 0 else math.inf

    def _failed(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {one_line(error)}"
        self._failures += 1
        self._retry_at_s = time.monotonic() + self._retry.delay_s(self._failures)
        if self.fault is None:
            self._reports.add("WARNING", f"policy store does not answer, retrying error={reason}")
        self.fault = reason
