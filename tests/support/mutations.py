"""Mutated byte strings, as a broken disk, a broken program or an attacker may produce them."""

import random
from collections.abc import Iterator

_NUMBERS = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xc1", b"\xdc\xff\xff", b"\xdd" + b"\xff" * 4, b"\xdf" + b"\xff" * 4)
_HUGE = (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf8" + bytes(6))
_TEXT = (b"-1", b"1e999", b"NaN", b"null", b"9" * 400, b"../", b'"/dev/zero"', b"\\ud800", b"{" * 2000, b"[" * 2000)
_WORDS = (*_NUMBERS, *_HUGE, *_TEXT)


def mutants(data: bytes, how_many: int, seed: int) -> Iterator[bytes]:
    """Yield ``how_many`` strings, each a few changes away from ``data``, reproducible by ``seed``."""
    rng = random.Random(seed)
    for _ in range(how_many):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _change(mutant, rng)
        yield bytes(mutant)


def _change(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64)))
    match rng.randrange(8):
        case 0 | 1 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 2 if at < len(data):
            data[at] = rng.randrange(256)
        case 3:
            del data[at:]
        case 4:
            del data[at:end]
        case 5:
            data[at:at] = rng.choice(_WORDS)
        case 6:
            data[at:end] = rng.choice(_WORDS)
        case _:
            begin = rng.randrange(len(data) + 1)
            data[at:at] = data[begin : begin + rng.randrange(64)]
