"""Limits of the tensors that files of a version may describe. Readers compute with sizes only after this check."""

import math
from collections.abc import Sequence

MAX_TENSORS = 10_000
MAX_DIMENSIONS = 32
MAX_TENSOR_BYTES = 8 * 2**30


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
