"""SHA-256 with and without a thread."""

import hashlib
import threading
from unittest.mock import Mock

import pytest

from shared.files.background_sha256 import BackgroundSha256

PIECES = [b"one", memoryview(b"two"), b"", b"three" * 1000]
EXPECTED = hashlib.sha256(b"".join(map(bytes, PIECES))).hexdigest()


def _hash() -> tuple[str, bool]:
    with BackgroundSha256() as hashing:
        for piece in PIECES:
            hashing.update(piece)
        return hashing.hexdigest(), hashing.is_apart


def test_all_pieces_are_hashed_in_order_with_and_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _hash() == (EXPECTED, True)
    refuse = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    assert _hash() == (EXPECTED, False)


def test_thread_ends_after_an_exception() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="gone"), BackgroundSha256() as hashing:  # noqa: PT012
        hashing.update(b"one")
        raise OSError("gone")
    assert threading.active_count() == before
