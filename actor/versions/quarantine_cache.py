"""Which versions failed while they acted on this machine: an actor that is started again does not try them again."""

from pathlib import Path

from loguru import logger

from shared.errors import StoreError
from shared.files.small_files import forget_oldest
from shared.store.quarantine import Quarantine
from shared.store.store_notes import LocalNotes

_MOST_REMEMBERED = 1000


class QuarantineCache:
    """One small file for each digest in ``directory``, which only its user should write to.

    Where nothing can be read or written, a version is tried again, and fails again. The loader's thread.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._quarantine = Quarantine(LocalNotes(directory))

    def reason(self, digest: str) -> str | None:
        """Why nobody here tries ``digest`` again, or None."""
        try:
            advice = self._quarantine.advice(digest)
        except StoreError as error:
            logger.debug("nothing is remembered: {}", error)
            return None
        return None if advice is None else advice.reason

    def add(self, digest: str, reason: str, by: str) -> None:
        """Remember it, and forget the oldest where there are very many."""
        try:
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._quarantine.add(digest, reason, by)
            forget_oldest(self._directory, _MOST_REMEMBERED)
        except (StoreError, OSError) as error:
            logger.debug("not remembered: {}", error)
