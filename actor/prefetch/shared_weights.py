"""The newest verified version, in memory that a prefetcher process shares with its actor.

One process writes and one reads, without a lock: neither waits for the other. Of two slots the writer uses the one that
was not offered last. If it still overtakes the reader, by two versions at once, the checksum shows it, and the reader
takes the newer version.
"""

import mmap
import os
import zlib
from dataclasses import dataclass

import numpy as np

_IS_READY, _OFFERS, _OFFERED, _REFUSED, _WORDS = range(5)
_NUMBER, _VERSION, _TEXT_BYTES, _BLOCK_FLOATS, _SUM, _HEADER_WORDS = range(6)
_WORD_BYTES = 8
_MAX_TEXT_BYTES = 2**16  # a digest and a manifest
_DIGEST_BYTES = 64
_MASK = 2**63 - 1


@dataclass(frozen=True)
class Offer:
    """A verified version: its manifest as read from the store, and the digest of that."""

    version: int
    digest: str
    manifest_bytes: bytes


class SharedWeights:
    """Two slots for blocks of ``block_floats`` float32 in the open file ``descriptor``, which begins as zeros.

    The file has ``size_bytes(block_floats)`` bytes.
    """

    def __init__(self, descriptor: int, block_floats: int) -> None:
        memory = memoryview(mmap.mmap(descriptor, size_bytes(block_floats)))
        self._words = memory[: _WORDS * _WORD_BYTES].cast("q")
        step = _slot_bytes(block_floats)
        begins = [_WORDS * _WORD_BYTES + number * step for number in range(2)]
        self._slots = [_Slot(memory[begin : begin + step], block_floats) for begin in begins]
        self._taken = 0

    # Called by the prefetcher process.

    def begin(self) -> None:
        """Tell the actor that the process verifies new versions from now on."""
        self._words[_IS_READY] = 1

    def offer(self, offer: Offer, block: np.ndarray) -> None:
        """Offer a version with the weights in ``block``. Raises ValueError if it does not fit."""
        number = self._words[_OFFERS] + 1
        self._slots[number % 2].write(number, offer, block)
        self._words[_OFFERED] = offer.version
        self._words[_OFFERS] = number

    def refuse(self, version: int) -> None:
        """Leave ``version`` to the actor's loader."""
        self._words[_REFUSED] = version + 1

    # Called by the actor.

    @property
    def is_ready(self) -> bool:
        return self._words[_IS_READY] != 0

    @property
    def has_news(self) -> bool:
        """True while a version is offered that was not taken yet. Costs next to nothing."""
        return self._words[_OFFERS] != self._taken

    @property
    def offered(self) -> int:
        """The newest version offered so far; -1 if none."""
        return self._words[_OFFERED] if self._words[_OFFERS] else -1

    @property
    def refused(self) -> int:
        """The newest version refused so far; -1 if none."""
        return self._words[_REFUSED] - 1

    def take(self, block: np.ndarray) -> Offer | None:
        """Return the newest offer and write its weights to ``block``; None if the writer overtook: try again."""
        number = self._words[_OFFERS]
        offer = self._slots[number % 2].read(number, block)
        if offer is not None:
            self._taken = number
        return offer


class _Slot:
    def __init__(self, memory: memoryview, block_floats: int) -> None:
        self._header = memory[: _HEADER_WORDS * _WORD_BYTES].cast("q")
        rest = memory[_HEADER_WORDS * _WORD_BYTES :]
        self._block = np.frombuffer(rest, np.float32, block_floats)
        self._text = rest[self._block.nbytes :]

    def write(self, number: int, offer: Offer, block: np.ndarray) -> None:
        text = offer.digest.encode() + offer.manifest_bytes
        size = len(text)
        if size > _MAX_TEXT_BYTES or block.shape != self._block.shape:
            raise ValueError(f"no room for a manifest of {len(offer.manifest_bytes)} bytes and {block.size} numbers")
        header = (number, offer.version, size, block.size, _checksum(number, offer.version, text, block))
        self._header[_SUM] = 0
        self._text[:size] = text
        self._block[...] = block
        for place, word in enumerate(header):
            self._header[place] = word

    def read(self, number: int, block: np.ndarray) -> Offer | None:
        found, version, size, floats, total = self._header
        if found != number or floats != block.size or not 0 <= size <= _MAX_TEXT_BYTES:
            return None
        block[...] = self._block
        text = bytes(self._text[:size])
        if total != _checksum(number, version, text, block):
            return None
        return Offer(version, text[:_DIGEST_BYTES].decode(), text[_DIGEST_BYTES:])


def make_shared_file(size: int) -> int:
    """Return the descriptor of a file of ``size`` zeros in memory. Raises OSError."""
    descriptor = os.memfd_create("rl-hotswap-prefetcher")
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def size_bytes(block_floats: int) -> int:
    """Return the size of the file of a ``SharedWeights``."""
    return _WORDS * _WORD_BYTES + 2 * _slot_bytes(block_floats)


def _slot_bytes(block_floats: int) -> int:
    unpadded = _HEADER_WORDS * _WORD_BYTES + 4 * block_floats + _MAX_TEXT_BYTES
    return -(-unpadded // _WORD_BYTES) * _WORD_BYTES


def _checksum(number: int, version: int, text: bytes, block: np.ndarray) -> int:
    """Return a cheap checksum: it has to find half of one version beside half of another, not malice."""
    return (zlib.adler32(block.data, zlib.crc32(text)) ^ number << 20 ^ version << 40) & _MASK
