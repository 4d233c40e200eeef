"""Housekeeping of a store that is published into many times a second: old versions go, the newest become durable.

It also listens to what actors advise about the versions.
"""

import threading

from loguru import logger

from learner.publishing.error_throttle import ErrorThrottle
from learner.publishing.quarantine_monitor import QuarantineMonitor
from shared.errors import VersionNotFound
from shared.policy.manifest import Manifest
from shared.store.policy_store import PolicyStore, Retention

_PERIOD_S = 0.5
_ADVICE_PERIOD_S = 1.0


class StoreMaintenance:
    """Works on a thread of its own, now and then: publishing waits neither for a disk to sync nor for files to vanish.

    Whatever goes wrong is logged, and tried again when there is a next version.
    """

    def __init__(self, store: PolicyStore, retention: Retention, *, period_s: float = _PERIOD_S) -> None:
        self._store = store
        self._retention = retention
        self._period_s = period_s
        self._published = threading.Event()
        self._closing = threading.Event()
        self._version: int | None = None
        self._syncing = ErrorThrottle("making versions durable")
        self._sweeping = ErrorThrottle("sweeping old versions")
        self._advice = QuarantineMonitor(store)
        # A daemon, so that a store that hangs cannot keep a learner from ending.
        self._thread = threading.Thread(target=self._keep, name="store-keeper", daemon=True)
        self._thread.start()

    def published(self, manifest: Manifest) -> None:
        """There is something new to be made durable, and maybe something old to be swept."""
        self._advice.published(manifest)
        self._version = manifest.version
        self._published.set()

    def close(self, timeout_s: float) -> bool:
        """Do what is left to do, and end the thread. False where that took longer than ``timeout_s``. Idempotent."""
        self._closing.set()
        self._published.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _keep(self) -> None:
        is_last = False
        while not is_last:
            self._published.wait(_ADVICE_PERIOD_S)
            self._closing.wait(self._period_s)  # actors are reading the newest version now, and may want these cores
            is_last = self._closing.is_set()
            if self._published.is_set():
                self._published.clear()
                self._make_durable()
                self._sweep()
            self._advice.check()

    def _make_durable(self) -> None:
        version, self._version = self._version, None
        if version is None:
            return
        try:
            self._store.make_durable(version)
        except VersionNotFound:
            logger.debug("version {} was swept before it became durable", version)
        except Exception as error:  # noqa: BLE001 - it acts already, and the next one is tried as well
            self._syncing.failed(error, f"version {version} may not outlive a power cut")
        else:
            self._syncing.worked()

    def _sweep(self) -> None:
        try:
            swept = self._store.sweep(self._retention)
        except Exception as error:  # noqa: BLE001 - a store that cannot be swept now can be later
            self._sweeping.failed(error, "old versions stay for now")
        else:
            self._sweeping.worked()
            if swept:
                logger.debug("swept versions {}", swept)
