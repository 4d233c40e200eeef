"""The contents that failed while acting on this machine, kept for actors that start later."""

from contextlib import suppress
from pathlib import Path

from loguru import logger

from shared.errors import StoreError
from shared.files.small_files import forget_oldest
from shared.store.store_notes import LocalNotes, Quarantine

_MAX_FILES = 1000


class QuarantineCache:
    """One small file for each digest in ``directory``, which only its user should be able to write to.

    If the directory cannot be read, a version is tried again and fails again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._quarantine = Quarantine(LocalNotes(directory))

    def reason(self, digest: str) -> str | None:
        """Return the reason of the quarantine of ``digest``, or None."""
        try:
            advice = self._quarantine.advice(digest)
        except StoreError as error:
            logger.debug("quarantine cache not read error={}", error)
            return None
        return None if advice is None else advice.reason

    def add(self, digest: str, reason: str, by: str) -> bool:
        """Keep the quarantine of ``digest``, and drop the oldest files above a thousand. Return False on failure."""
        try:
            self._quarantine.add(digest, reason, by)
        except (StoreError, OSError) as error:
            logger.debug("quarantine cache not written error={}", error)
            return False
        with suppress(OSError):
            forget_oldest(self._directory, _MAX_FILES)
        return True
