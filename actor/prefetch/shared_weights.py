"""What a prefetcher has made ready, in memory that it shares with its actor: the newest version alone, ready to be
copied.

One process writes and one reads, without a lock: neither ever waits for the other. Of two slots the one is written that
was not offered last. A reader that is overtaken all the same, by two versions at once, sees it by the sums, and takes
the newer one.
"""

import mmap
import os
import zlib
from dataclasses import dataclass

import numpy as np

_IS_READY, _OFFERS, _OFFERED, _REFUSED, _WORDS = range(5)
_NUMBER, _VERSION, _TEXT_BYTES, _BLOCK_FLOATS, _SUM, _HEADER_WORDS = range(6)
_WORD_BYTES = 8
_MOST_TEXT_BYTES = 2**16  # a digest and a manifest
_DIGEST_BYTES = 64
_MASK = 2**63 - 1


@dataclass(frozen=True)
class Offer:
    """A version that was verified: its manifest as it was found, and that one's digest."""

    version: int
    digest: str
    manifest_bytes: bytes


class SharedWeights:
    """Room for blocks of ``block_floats`` numbers, float32, in the open file ``descriptor``, which has ``size_bytes``.

    The file begins as zeros.
    """

    def __init__(self, descriptor: int, block_floats: int) -> None:
        memory = memoryview(mmap.mmap(descriptor, size_bytes(block_floats)))
        self._words = memory[: _WORDS * _WORD_BYTES].cast("q")
        step = _slot_bytes(block_floats)
        begins = [_WORDS * _WORD_BYTES + number * step for number in range(2)]
        self._slots = [_Slot(memory[begin : begin + step], block_floats) for begin in begins]
        self._taken = 0

    # What the prefetcher does.

    def begin(self) -> None:
        """From now on the prefetcher sees to what is new."""
        self._words[_IS_READY] = 1

    def offer(self, offer: Offer, block: np.ndarray) -> None:
        """This version may act, with the weights in ``block``. Raises ValueError where there is no room for it."""
        number = self._words[_OFFERS] + 1
        self._slots[number % 2].write(number, offer, block)
        self._words[_OFFERED] = offer.version
        self._words[_OFFERS] = number

    def refuse(self, version: int) -> None:
        """Whatever is to be done about ``version`` is the actor's to do."""
        self._words[_REFUSED] = version + 1

    # What the actor does.

    @property
    def is_ready(self) -> bool:
        return self._words[_IS_READY] != 0

    @property
    def has_news(self) -> bool:
        """Whether something was offered that was not taken yet; costs next to nothing."""
        return self._words[_OFFERS] != self._taken

    @property
    def offered(self) -> int:
        """The newest version offered so far, -1 where none was."""
        return self._words[_OFFERED] if self._words[_OFFERS] else -1

    @property
    def refused(self) -> int:
        """The newest version refused so far, -1 where none was."""
        return self._words[_REFUSED] - 1

    def take(self, block: np.ndarray) -> Offer | None:
        """The newest offer, with its weights in ``block``; None where the prefetcher overtook the reader: try again."""
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
        if size > _MOST_TEXT_BYTES or block.shape != self._block.shape:
            raise ValueError(f"no room for a manifest of {len(offer.manifest_bytes)} bytes and {block.size} numbers")
        header = (number, offer.version, size, block.size, _sum(number, offer.version, text, block))
        self._header[_SUM] = 0
        self._text[:size] = text
        self._block[...] = block
        for place, word in enumerate(header):
            self._header[place] = word

    def read(self, number: int, block: np.ndarray) -> Offer | None:
        found, version, size, floats, total = self._header
        if found != number or floats != block.size or not 0 <= size <= _MOST_TEXT_BYTES:
            return None
        block[...] = self._block
        text = bytes(self._text[:size])
        if total != _sum(number, version, text, block):
            return None
        return Offer(version, text[:_DIGEST_BYTES].decode(), text[_DIGEST_BYTES:])


def make_shared_file(size: int) -> int:
    """A descriptor of a file of ``size`` zeros that lives in memory alone. Raises OSError."""
    descriptor = os.memfd_create("rl-hotswap-prefetcher")
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def size_bytes(block_floats: int) -> int:
    """How large the file of a shared_weights is."""
    return _WORDS * _WORD_BYTES + 2 * _slot_bytes(block_floats)


def _slot_bytes(block_floats: int) -> int:
    unpadded = _HEADER_WORDS * _WORD_BYTES + 4 * block_floats + _MOST_TEXT_BYTES
    return -(-unpadded // _WORD_BYTES) * _WORD_BYTES


def _sum(number: int, version: int, text: bytes, block: np.ndarray) -> int:
    """Cheap, and enough: what is looked for is half of one version beside half of another, and no malice."""
    return (zlib.adler32(block.data, zlib.crc32(text)) ^ number << 20 ^ version << 40) & _MASK
