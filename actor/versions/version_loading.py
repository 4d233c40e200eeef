"""The load of one version: open, authenticate, check for a quarantine, load, and record what failed."""

import time

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import TakeSpare
from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports, is_interrupt
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionState, VersionTable
from shared.errors import (
    DigestMismatch,
    HotswapError,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
    one_line,
)
from shared.retry import RetrySchedule
from shared.store.authenticity import Authenticity

_TRANSIENT = (TransientLoadError, StoreUnavailable, VersionNotFound, MemoryError)


class VersionLoader:
    """Loads single versions. Every failure ends in the version table and in the reports."""

    def __init__(
        self,
        listing: StoreListing,
        versions: VersionTable,
        engines: EngineFallback,
        authenticity: Authenticity,
        *,
        quarantine: QuarantineReporter,
        reports: Reports,
    ) -> None:
        self.engines = engines
        self.quarantine = quarantine
        self.reports = reports
        self._listing = listing
        self._versions = versions
        self._authenticity = authenticity
        self._retry = RetrySchedule()

    def load(self, version: int, take_spare: TakeSpare) -> LoadedPolicy | None:
        """Return ``version`` verified and warm, or None if it failed."""
        self._versions.move(version, VersionState.LOADING)
        digest = None
        try:
            files = self._authenticity.open(self._listing.store, version)
            digest = files.manifest.digest
            reason = self._versions.quarantine_reason(digest) or self.quarantine.cached_reason(digest)
            if reason is not None:
                self._versions.fail(version, reason, digest=digest)
                self.reports.add("ERROR", f"policy version {version} refused reason=content is quarantined: {reason}")
                return None
            result = self.engines.load(files, take_spare)
        except BaseException as error:
            if is_interrupt(error):
                raise
            self.failed(version, digest, error)
            return None
        self._authenticity.pin(files.manifest)
        if (line := result.describe()) is not None:
            self.reports.add("WARNING", line)
        return result.policy

    def failed(self, version: int, digest: str | None, error: BaseException) -> None:
        """Record that ``version`` cannot act because of ``error``: for now, or for good."""
        reason = f"{type(error).__name__}: {one_line(error)}"
        if not isinstance(error, _TRANSIENT):
            self._fail_permanently(version, digest, error, reason)
        elif self._fail_transiently(version, reason) == 1 and not isinstance(error, VersionNotFound):
            self.reports.add("WARNING", f"policy version {version} will be retried reason={reason}")
        if isinstance(error, VersionNotFound):
            self._listing.look(force=True)

    def _fail_permanently(self, version: int, digest: str | None, error: BaseException, reason: str) -> None:
        # A mismatch of bytes blames this copy of the version, not its content: another copy may be right.
        blamed = None if isinstance(error, DigestMismatch) else digest
        self._versions.fail(version, reason, digest=blamed)
        if blamed is not None and isinstance(error, HotswapError):
            self.quarantine.failed_to_load(blamed, reason)
        self.reports.add("ERROR", f"policy version {version} quarantined reason={reason}")

    def _fail_transiently(self, version: int, reason: str) -> int:
        attempts = self._versions.attempts(version) + 1
        self._versions.fail(version, reason, retry_at_s=time.monotonic() + self._retry.delay_s(attempts))
        return attempts
