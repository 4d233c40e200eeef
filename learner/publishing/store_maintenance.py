"""Maintenance of a store on a thread: the newest versions become durable, old ones are removed, advice is read."""

import threading

from loguru import logger

from learner.publishing.error_throttle import ErrorThrottle
from shared.errors import VersionNotFound
from shared.policy.manifest import Manifest
from shared.store.policy_store import PolicyStore, Retention

_MOST_DIGESTS = 1000


class QuarantineMonitor:
    """Reads the quarantine advice of a store and warns once of each digest that this process has published."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store
        self._published: dict[str, int] = {}
        self._reported: set[str] = set()
        self._reading = ErrorThrottle("reading quarantine advice")

    def published(self, manifest: Manifest) -> None:
        """Register a version that this process has published. Any thread may call this."""
        # Replaced, not changed: another thread reads it.
        newest = dict(list(self._published.items())[1 - _MOST_DIGESTS :])
        self._published = newest | {manifest.digest: manifest.version}

    def check(self) -> None:
        """Warn of advice that is new. Never raises: training does not depend on advice."""
        try:
            advice = self._store.quarantined()
        except Exception as error:  # noqa: BLE001 - a store may raise anything
            self._reading.failed(error, "quarantine reports of actors are not seen")
            return
        self._reading.worked()
        for digest in advice.keys() & self._published.keys() - self._reported:
            self._reported.add(digest)
            logger.warning(
                "an actor quarantined a version published here version={}: {}", self._published[digest], advice[digest]
            )


_PERIOD_S = 0.5
_ADVICE_PERIOD_S = 1.0


class StoreMaintenance:
    """A thread that syncs and sweeps. A failure is logged; the next version is another attempt."""

    def __init__(self, store: PolicyStore, retention: Retention, *, period_s: float = _PERIOD_S) -> None:
        self._store = store
        self._retention = retention
        self._period_s = period_s
        self._published = threading.Event()
        self._closing = threading.Event()
        self._version: int | None = None
        self._syncing = ErrorThrottle("making versions durable")
        self._sweeping = ErrorThrottle("sweeping old versions")
        self._quarantine = QuarantineMonitor(store)
        # A daemon, so that a hanging store cannot keep a learner from ending.
        self._thread = threading.Thread(target=self._maintain, name="store-maintenance", daemon=True)
        self._thread.start()

    def published(self, manifest: Manifest) -> None:
        """Schedule a sync of this version and a sweep of old ones."""
        self._quarantine.published(manifest)
        self._version = manifest.version
        self._published.set()

    def close(self, timeout_s: float) -> bool:
        """Finish the scheduled work and end the thread. Return False after ``timeout_s``. May be called twice."""
        self._closing.set()
        self._published.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _maintain(self) -> None:
        is_last = False
        while not is_last:
            self._published.wait(_ADVICE_PERIOD_S)
            self._closing.wait(self._period_s)  # actors read the newest version now, perhaps on the same cores
            is_last = self._closing.is_set()
            if self._published.is_set():
                self._published.clear()
                self._make_durable()
                self._sweep()
            self._quarantine.check()

    def _make_durable(self) -> None:
        version, self._version = self._version, None
        if version is None:
            return
        try:
            self._store.make_durable(version)
        except VersionNotFound:
            logger.debug("policy version swept before it was durable version={}", version)
        except Exception as error:  # noqa: BLE001 - a store may raise anything; the next version is tried as well
            self._syncing.failed(error, f"version {version} may be lost in a power cut")
        else:
            self._syncing.worked()

    def _sweep(self) -> None:
        try:
            swept = self._store.sweep(self._retention)
        except Exception as error:  # noqa: BLE001 - a store may raise anything; the next sweep is tried as well
            self._sweeping.failed(error, "old versions are kept until the next sweep")
        else:
            self._sweeping.worked()
            if swept:
                logger.debug("policy versions swept versions={}", swept)
