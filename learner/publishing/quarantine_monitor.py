"""Warnings about published versions that actors have quarantined."""

from loguru import logger

from learner.publishing.error_throttle import ErrorThrottle
from shared.policy.manifest import Manifest
from shared.store.policy_store import PolicyStore

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
