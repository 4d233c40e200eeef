"""Quarantine advice: one small file for each failed digest, beside the versions of a store. Nothing signs it."""

import re
import time
from contextlib import suppress

import msgspec

from shared.errors import StoreUnavailable
from shared.store.store_notes import StoreNotes

QUARANTINE_DIRECTORY = "quarantine"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_REASON_CHARACTERS = 2000
_MAX_NAME_CHARACTERS = 200


class QuarantineAdvice(msgspec.Struct, frozen=True):
    """The version with this manifest digest failed in the process ``by``."""

    digest: str
    reason: str
    by: str
    created_unix_s: float


class Quarantine:
    """Quarantine advice in ``notes``, which are named after digests. Methods raise StoreUnavailable."""

    def __init__(self, notes: StoreNotes) -> None:
        self._notes = notes
        self._reasons: dict[str, str | None] = {}

    def add(self, digest: str, reason: str, by: str) -> None:
        """Write advice unless there is some. Raises ValueError if ``digest`` is not a digest.

        Long texts are cut: an error message may quote a tensor.
        """
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"expected the digest of a manifest, 64 hexadecimal digits; found {digest!r}")
        if digest not in self._notes.names():
            advice = QuarantineAdvice(
                digest, _cut(reason, _MAX_REASON_CHARACTERS), _cut(by, _MAX_NAME_CHARACTERS), time.time()
            )
            self._notes.write(digest, msgspec.json.encode(advice))

    def reasons(self) -> dict[str, str]:
        """Return digest -> reason. Each note is read once, since advice never changes; invalid ones are skipped."""
        known = self._reasons
        self._reasons = {}
        for digest in filter(_DIGEST.fullmatch, self._notes.names()):
            with suppress(StoreUnavailable):  # one unreadable note does not hide the others; the next call reads again
                self._reasons[digest] = known[digest] if digest in known else self._reason(digest)
        return {digest: reason for digest, reason in self._reasons.items() if reason is not None}

    def advice(self, digest: str) -> QuarantineAdvice | None:
        """Return the advice about ``digest``, or None if there is no valid one."""
        data = self._notes.read(digest)
        if data is None:
            return None
        try:
            advice = msgspec.json.decode(data, type=QuarantineAdvice)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return advice if advice.digest == digest else None

    def _reason(self, digest: str) -> str | None:
        advice = self.advice(digest)
        return advice.reason if advice else None


def _cut(text: str, characters: int) -> str:
    return text[:characters].encode(errors="replace").decode()
