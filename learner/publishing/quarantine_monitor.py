"""Tells the training what its actors reported of its own versions: a learner that publishes what fails should know."""

from loguru import logger

from learner.publishing.error_throttle import ErrorThrottle
from shared.policy.manifest import Manifest
from shared.store.policy_store import PolicyStore

_VERSIONS_REMEMBERED = 1000


class QuarantineMonitor:
    """Reads a store's quarantine advice now and then, and warns once of each digest that was published from here."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store
        self._published: dict[str, int] = {}
        self._told: set[str] = set()
        self._reading = ErrorThrottle("reading quarantine advice")

    def published(self, manifest: Manifest) -> None:
        """This is one of ours. May be called from another thread than ``check``."""
        # Replaced and not changed, as another thread looks things up in it.
        newest = dict(list(self._published.items())[1 - _VERSIONS_REMEMBERED :])
        self._published = newest | {manifest.digest: manifest.version}

    def check(self) -> None:
        """Warn of what is new. Never raises: advice is no reason to stop."""
        try:
            advice = self._store.quarantined()
        except Exception as error:  # noqa: BLE001 - whatever a store raises, versions must still be kept
            self._reading.failed(error, "what actors report of versions is not seen")
            return
        self._reading.worked()
        for digest in advice.keys() & self._published.keys() - self._told:
            self._told.add(digest)
            logger.warning(
                "version {} was published here, and an actor has quarantined it: {}",
                self._published[digest],
                advice[digest],
            )
