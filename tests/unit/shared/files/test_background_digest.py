"""Digests with and without a thread."""

import hashlib
import threading
from unittest.mock import Mock

import pytest
from blake3 import blake3

from shared.files.background_digest import BackgroundDigest
from shared.files.digests import DigestName

PIECES = [b"one", memoryview(b"two"), b"", b"three" * 1000]
WHOLE = b"".join(map(bytes, PIECES))
EXPECTED: dict[DigestName, str] = {
    "sha256": hashlib.sha256(WHOLE).hexdigest(),
    "blake3": blake3(WHOLE).hexdigest(),
}


def _hash(name: DigestName) -> tuple[str, bool]:
    with BackgroundDigest(name) as hashing:
        for piece in PIECES:
            hashing.update(piece)
        return hashing.hexdigest(), hashing.is_apart


@pytest.mark.parametrize("name", EXPECTED)
def test_all_pieces_are_hashed_in_order_with_and_without_a_thread(
    name: DigestName, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _hash(name) == (EXPECTED[name], True)
    refuse = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    assert _hash(name) == (EXPECTED[name], False)


def test_thread_ends_after_an_exception() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="gone"), BackgroundDigest("blake3") as hashing:  # noqa: PT012
        hashing.update(b"one")
        raise OSError("gone")
    assert threading.active_count() == before
