"""What an actor tells others through the store about a version that failed: advice, one small file for each digest."""

import re
import time

import msgspec

MAX_ADVICE_BYTES = 2**14
QUARANTINE_DIRECTORY = "quarantine"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".json"
_MAX_REASON_CHARACTERS = 2000
_MAX_NAME_CHARACTERS = 200


class QuarantineAdvice(msgspec.Struct, frozen=True):
    """``by`` saw the version with this ``digest`` fail for this ``reason``."""

    digest: str
    reason: str
    by: str
    created_unix_s: float


def advice_name(digest: str) -> str:
    """The file name of the advice about ``digest``. Raises ValueError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"expected a manifest's digest, 64 hexadecimal digits; found {digest!r}")
    return digest + _SUFFIX


def advised_digest(name: str) -> str | None:
    """The digest that the file ``name`` is about, or None where it is no advice."""
    digest = name.removesuffix(_SUFFIX)
    return digest if digest != name and _DIGEST.fullmatch(digest) else None


def encode_advice(digest: str, reason: str, by: str) -> bytes:
    """Advice given now. Long texts are cut: an error message may quote a whole tensor."""
    advice = QuarantineAdvice(digest, _cut(reason, _MAX_REASON_CHARACTERS), _cut(by, _MAX_NAME_CHARACTERS), time.time())
    return msgspec.json.encode(advice)


def decode_advice(data: bytes, digest: str) -> QuarantineAdvice | None:
    """The advice about ``digest``, or None where the bytes are none: bad advice is no advice."""
    try:
        advice = msgspec.json.decode(data, type=QuarantineAdvice)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return advice if advice.digest == digest else None


def _cut(text: str, characters: int) -> str:
    return text[:characters].encode(errors="replace").decode()
