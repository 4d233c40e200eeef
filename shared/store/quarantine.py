"""Quarantine advice: one small file for each failed digest, beside the versions of a store. Nothing signs it."""

import os
import re
import time
from pathlib import Path

import msgspec

from shared.files.bounded_read import NotRegularFileError, read_regular_file
from shared.files.small_files import write_whole
from shared.files.storage_errors import storage

MAX_ADVICE_BYTES = 2**14
QUARANTINE_DIRECTORY = "quarantine"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".json"
_MAX_REASON_CHARACTERS = 2000
_MAX_NAME_CHARACTERS = 200


class QuarantineAdvice(msgspec.Struct, frozen=True):
    """The version with this manifest digest failed in the process ``by``."""

    digest: str
    reason: str
    by: str
    created_unix_s: float


def advice_name(digest: str) -> str:
    """Return the file name of the advice about ``digest``. Raises ValueError if it is not a digest."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"expected the digest of a manifest, 64 hexadecimal digits; found {digest!r}")
    return digest + _SUFFIX


def advised_digest(name: str) -> str | None:
    """Return the digest that the file ``name`` is about, or None for other files."""
    digest = name.removesuffix(_SUFFIX)
    return digest if digest != name and _DIGEST.fullmatch(digest) else None


def encode_advice(digest: str, reason: str, by: str) -> bytes:
    """Encode advice with the present time. Long texts are cut: an error message may quote a tensor."""
    advice = QuarantineAdvice(digest, _cut(reason, _MAX_REASON_CHARACTERS), _cut(by, _MAX_NAME_CHARACTERS), time.time())
    return msgspec.json.encode(advice)


def decode_advice(data: bytes, digest: str) -> QuarantineAdvice | None:
    """Return the advice about ``digest``, or None for invalid bytes."""
    try:
        advice = msgspec.json.decode(data, type=QuarantineAdvice)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return advice if advice.digest == digest else None


def _cut(text: str, characters: int) -> str:
    return text[:characters].encode(errors="replace").decode()


class LocalQuarantine:
    """Quarantine advice in ``directory``, which is created with the first advice. Methods raise StoreUnavailable.

    Nothing is synced to the disk: advice may be lost when the machine crashes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reasons: dict[str, str | None] = {}

    def add(self, digest: str, reason: str, by: str) -> None:
        """Write advice unless there is some. Raises ValueError if ``digest`` is not a digest."""
        advice = self._directory / advice_name(digest)
        with storage(f"write quarantine advice into {self._directory}"):
            if not advice.exists():
                write_whole(self._directory, advice.name, encode_advice(digest, reason, by))

    def reasons(self) -> dict[str, str]:
        """Return digest -> reason. Each file is read once, since advice never changes; unreadable files are skipped."""
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
        """Return the advice about ``digest``, or None. Raises ValueError if it is not a digest."""
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
