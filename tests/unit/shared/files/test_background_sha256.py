"""SHA-256 with and without a thread."""

import hashlib
import threading

import pytest

from shared.files.background_sha256 import BackgroundSha256

PIECES = [b"one", memoryview(b"two"), b"", b"three" * 1000]
EXPECTED = hashlib.sha256(b"".join(map(bytes, PIECES))).hexdigest()


def _hash() -> tuple[str, bool]:
    with BackgroundSha256() as hashing:
        for piece in PIECES:
            hashing.update(piece)
        return hashing.hexdigest(), hashing.is_apart


def test_all_pieces_are_hashed_in_order() -> None:
    assert _hash() == (EXPECTED, True)


def test_digest_is_the_same_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, *_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    assert _hash() == (EXPECTED, False)


def test_thread_ends_after_an_exception() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="gone"):
        _fail_half_way()
    assert threading.active_count() == before


def _fail_half_way() -> None:
    with BackgroundSha256() as hashing:
        hashing.update(b"one")
        raise OSError("gone")
