"""Sizes of tensors: the limits of those that files of a version may describe, and sizes with a name.

Readers compute with sizes only after the check of their limits.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

MAX_TENSORS = 10_000
MAX_DIMENSIONS = 32
MAX_TENSOR_BYTES = 8 * 2**30
MAX_NAMED_SIZE = 2**31
MAX_NAMES = 32

_SUM = re.compile(r"[A-Za-z_]\w{0,63}(\+[A-Za-z_]\w{0,63}){0,7}([+-]\d{1,9})?", re.ASCII)
_TERM = re.compile(r"[+-]?\w+", re.ASCII)


class NamedSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A size that varies from call to call, and its smallest and largest value."""

    name: str
    smallest: int
    largest: int


@functools.lru_cache(maxsize=1024)
def size_terms(text: str) -> tuple[tuple[str, ...], int]:
    """Return the names and the number of a sum such as ``t``, ``t+1`` or ``t+n-2``. Raises ValueError for others."""
    if _SUM.fullmatch(text) is None:
        raise ValueError(f"expected a name, or a sum of names and a number such as t+1, found {text[:80]!r}")
    terms = _TERM.findall(text)
    is_number = terms[-1][0] in "+-" and terms[-1][1].isdigit()
    names = terms[:-1] if is_number else terms
    return tuple(name.removeprefix("+") for name in names), int(terms[-1]) if is_number else 0


def size_of(text: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of a sum, or None if one of its names is not in ``sizes``."""
    names, number = size_terms(text)
    if not all(name in sizes for name in names):
        return None
    return sum(sizes[name] for name in names) + number


def shape_fault(shape: Sequence[int], item_bytes: int) -> str | None:
    """Return the reason for which no tensor of ``shape`` is accepted, or None. Empty dimensions count as one."""
    if len(shape) > MAX_DIMENSIONS:
        return f"expected at most {MAX_DIMENSIONS} dimensions, found {len(shape)}"
    if shape and min(shape) < 0:
        return "expected sizes of at least 0, found a negative one"
    if shape and max(shape) > MAX_TENSOR_BYTES:  # before the product: a size may have thousands of digits
        return f"expected sizes of at most {MAX_TENSOR_BYTES:,}, found a larger one"
    if item_bytes * math.prod(size or 1 for size in shape) > MAX_TENSOR_BYTES:
        return f"expected a tensor of at most {MAX_TENSOR_BYTES:,} bytes, found {tuple(shape)}"
    return None
