"""Quarantine advice in a directory beside the versions of a local store."""

import os
from pathlib import Path

from shared.files.bounded_read import NotRegularFileError, read_regular_file
from shared.files.small_files import write_whole
from shared.files.storage_errors import storage
from shared.store.quarantine_advice import (
    MAX_ADVICE_BYTES,
    QuarantineAdvice,
    advice_name,
    advised_digest,
    decode_advice,
    encode_advice,
)


class LocalQuarantine:
    """What actors reported, one file for each digest in ``directory``, which is made with the first one.

    Raises StoreUnavailable. Nothing is forced to the disk: advice may be lost with a machine that crashes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reasons: dict[str, str | None] = {}

    def add(self, digest: str, reason: str, by: str) -> None:
        """Report ``digest``, unless somebody has. Raises ValueError for what is no digest."""
        advice = self._directory / advice_name(digest)
        with storage(f"write quarantine advice into {self._directory}"):
            if advice.exists():
                return
            write_whole(self._directory, advice.name, encode_advice(digest, reason, by))

    def reasons(self) -> dict[str, str]:
        """Digest -> reason. Advice never changes, so that each file is read once; what cannot be read is no advice."""
        with storage(f"read quarantine advice in {self._directory}"):
            try:
                directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return {}
            try:
                names = os.listdir(directory)  # noqa: PTH208  (an open directory cannot be swapped for a link)
                digests = {digest for name in names if (digest := advised_digest(name))}
                known = self._reasons
                self._reasons = {d: known[d] if d in known else _read_reason(directory, d) for d in digests}
            finally:
                os.close(directory)
        return {digest: reason for digest, reason in self._reasons.items() if reason is not None}

    def advice(self, digest: str) -> QuarantineAdvice | None:
        """The whole report about ``digest``: who, when and why. Raises ValueError for what is no digest."""
        with storage(f"read quarantine advice in {self._directory}"):
            try:
                directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return _read_advice(directory, digest)
            finally:
                os.close(directory)


def _read_reason(directory: int, digest: str) -> str | None:
    advice = _read_advice(directory, digest)
    return advice.reason if advice else None


def _read_advice(directory: int, digest: str) -> QuarantineAdvice | None:
    try:
        data = read_regular_file(directory, advice_name(digest), MAX_ADVICE_BYTES)
    except (OSError, NotRegularFileError):
        return None
    return decode_advice(data, digest)
