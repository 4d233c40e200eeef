"""The contents that ended processes of this machine in a call: counted, and quarantined at the second time."""

import secrets
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from loguru import logger

from actor.guard.acting_record import ended_records
from actor.guard.record_place import RecordPlace
from shared.errors import StoreError
from shared.files.small_files import forget_oldest
from shared.store.store_notes import LocalNotes

ENDS_TO_QUARANTINE = 2

_MAX_FILES = 1000
_DIGEST_CHARACTERS = 64


@dataclass(frozen=True)
class UncleanEnd:
    """A process that ended by the fault of a content, which has ended ``ends`` processes so far."""

    version: int
    digest: str
    fault: str
    ends: int

    @property
    def is_last(self) -> bool:
        """True when the content must not act on this machine again."""
        return self.ends >= ENDS_TO_QUARANTINE


class _End(msgspec.Struct, frozen=True):
    version: int
    fault: str


class UncleanEnds:
    """The counts: one small file for each end in ``directory``.

    The count of a content begins at zero again when an agent closes that acted with it for a while. If the directory
    cannot be read, nothing is counted.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._notes = LocalNotes(directory)

    def take(self, place: RecordPlace) -> list[UncleanEnd]:
        """Count the processes that have ended since the last call by the fault of a content, and return them.

        While an end cannot be written (a full disk), its record stays: every later process counts it, too.
        """
        found = []
        unwritten = Counter[str]()
        try:
            for record, remove in ended_records(place):
                fault = None if record is None else record.fault()
                if record is None or fault is None:
                    remove()
                    continue
                try:
                    self._write(record.digest, _End(record.version, fault))
                except (StoreError, OSError) as error:
                    unwritten[record.digest] += 1
                    logger.debug("unclean end not written, its record stays error={}", error)
                else:
                    remove()
                ends = len(self._of(record.digest)) + unwritten[record.digest]
                found.append(UncleanEnd(record.version, record.digest, fault, ends))
            if found:
                forget_oldest(self._directory, _MAX_FILES)
        except (StoreError, OSError) as error:
            logger.debug("unclean ends not all counted error={}", error)
        return found

    def clear(self, digest: str) -> None:
        """Let the count of ``digest`` begin at zero."""
        with suppress(StoreError):
            for name in self._of(digest):
                self._notes.remove(name)

    def _write(self, digest: str, end: _End) -> None:
        self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._notes.write(f"{digest}-{secrets.token_hex(4)}", msgspec.json.encode(end))

    def _of(self, digest: str) -> list[str]:
        return [name for name in self._notes.names() if name[:_DIGEST_CHARACTERS] == digest]
