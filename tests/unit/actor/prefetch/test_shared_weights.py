"""The actor takes the newest offer of the prefetcher, whole."""

import mmap
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.prefetch.shared_weights import Offer, SharedWeights, make_shared_file, size_bytes

FLOATS = 4096
DIGEST = "ab" * 32


@pytest.fixture
def ends() -> tuple[SharedWeights, SharedWeights]:
    """The ends of the prefetcher and of the actor."""
    return _ends(FLOATS)


def _ends(floats: int) -> tuple[SharedWeights, SharedWeights]:
    descriptor = make_shared_file(size_bytes(floats))
    try:
        return SharedWeights(descriptor, floats), SharedWeights(descriptor, floats)
    finally:
        os.close(descriptor)


def _block(value: float, floats: int = FLOATS) -> np.ndarray:
    return np.full(floats, value, np.float32)


def test_a_new_file_has_no_offer(ends: tuple[SharedWeights, SharedWeights]) -> None:
    _, actor = ends
    assert not actor.is_ready
    assert not actor.has_news
    assert (actor.offered, actor.refused) == (-1, -1)


def test_what_is_offered_is_taken_once(ends: tuple[SharedWeights, SharedWeights]) -> None:
    prefetcher, actor = ends
    prefetcher.begin()
    prefetcher.offer(Offer(0, DIGEST, b"{}"), _block(1.5))
    assert actor.is_ready
    assert actor.has_news
    assert actor.offered == 0
    into = _block(0.0)
    assert actor.take(into) == Offer(0, DIGEST, b"{}")
    np.testing.assert_array_equal(into, _block(1.5))
    assert not actor.has_news


def test_only_the_newest_matters(ends: tuple[SharedWeights, SharedWeights]) -> None:
    prefetcher, actor = ends
    for version in (3, 5, 8):
        prefetcher.offer(Offer(version, DIGEST, str(version).encode()), _block(version))
    prefetcher.refuse(9)
    assert (actor.offered, actor.refused) == (8, 9)
    into = _block(0.0)
    assert actor.take(into) == Offer(8, DIGEST, b"8")
    np.testing.assert_array_equal(into, _block(8))


def test_an_offer_that_is_too_large_is_refused(ends: tuple[SharedWeights, SharedWeights]) -> None:
    prefetcher, actor = ends
    with pytest.raises(ValueError, match="no room"):
        prefetcher.offer(Offer(1, DIGEST, b" " * (2**16 + 1)), _block(1.0))
    with pytest.raises(ValueError, match="no room"):
        prefetcher.offer(Offer(1, DIGEST, b"{}"), _block(1.0, FLOATS + 1))
    assert not actor.has_news


@given(
    offers=st.lists(st.tuples(st.binary(max_size=200), st.floats(width=32, allow_nan=False)), min_size=1, max_size=6),
    floats=st.integers(1, 70),
)
def test_any_sequence(offers: list[tuple[bytes, float]], floats: int) -> None:
    prefetcher, actor = _ends(floats)
    into = _block(0.0, floats)
    for version, (manifest_bytes, value) in enumerate(offers):
        prefetcher.offer(Offer(version, DIGEST, manifest_bytes), _block(value, floats))
        assert actor.take(into) == Offer(version, DIGEST, manifest_bytes)
        np.testing.assert_array_equal(into, _block(value, floats))


_ONE, _TWO = np.full(FLOATS, 1.0, np.float32).tobytes(), np.float32(2.0).tobytes()
_WORD_BYTES = 8


@pytest.mark.parametrize(
    ("near", "offset", "written"),
    [
        pytest.param(_ONE, len(_ONE) // 2, _TWO, id="a number of the block"),
        pytest.param(DIGEST.encode(), 0, b"cd", id="the digest"),
        pytest.param(b"{one}", 0, b"{two}", id="the manifest"),
        pytest.param(_ONE, -4 * _WORD_BYTES, b"\2", id="the version"),
        pytest.param(_ONE, -5 * _WORD_BYTES, b"\3", id="the count"),
    ],
)
def test_half_of_one_version_beside_half_of_another_is_not_taken(near: bytes, offset: int, written: bytes) -> None:
    """A reader may find a slot that is being written to."""
    descriptor = make_shared_file(size_bytes(FLOATS))
    memory = mmap.mmap(descriptor, size_bytes(FLOATS))
    prefetcher, actor = SharedWeights(descriptor, FLOATS), SharedWeights(descriptor, FLOATS)
    os.close(descriptor)
    prefetcher.offer(Offer(1, DIGEST, b"{one}"), _block(1.0))
    at = memory.find(near) + offset
    memory[at : at + len(written)] = written
    assert actor.take(_block(0.0)) is None
    assert actor.has_news
    prefetcher.offer(Offer(4, DIGEST, b"{new}"), _block(4.0))
    assert actor.take(_block(0.0)) == Offer(4, DIGEST, b"{new}")


def test_offers_are_whole_while_the_prefetcher_writes_without_pause() -> None:
    prefetcher, actor = _ends(FLOATS)
    stopped = threading.Event()

    def write() -> None:
        version = 0
        while not stopped.is_set():
            version += 1
            prefetcher.offer(Offer(version, DIGEST, str(version).encode()), _block(version))

    writer = threading.Thread(target=write)
    writer.start()
    into, taken = _block(0.0), 0
    try:
        while taken < 100:
            if actor.has_news and (offer := actor.take(into)) is not None:
                assert offer.manifest_bytes == str(offer.version).encode()
                np.testing.assert_array_equal(into, _block(offer.version))
                taken += 1
    finally:
        stopped.set()
        writer.join()
