"""The limits of shapes, at their last accepted and first refused value."""

import re

import pytest

from shared.policy.tensor_limits import MAX_TENSOR_BYTES, shape_fault


@pytest.mark.parametrize(
    ("shape", "item_bytes"),
    [
        ((), 8),
        ((0,), 8),
        ((1,), 1),
        ((1,) * 32, 4),
        ((MAX_TENSOR_BYTES,), 1),
        ((0, MAX_TENSOR_BYTES // 4), 4),
        ((2, MAX_TENSOR_BYTES // 8), 4),
    ],
    ids=str,
)
def test_a_possible_tensor(shape: tuple[int, ...], item_bytes: int) -> None:
    assert shape_fault(shape, item_bytes) is None


@pytest.mark.parametrize(
    ("shape", "item_bytes", "says"),
    [
        ((1,) * 33, 4, "at most 32 dimensions"),
        ((2, -1), 4, "expected sizes of at least 0, found a negative one"),
        ((MAX_TENSOR_BYTES + 1,), 1, "at most"),
        ((2, MAX_TENSOR_BYTES // 8 + 1), 4, "a tensor of at most"),
        ((0, MAX_TENSOR_BYTES // 4 + 1), 4, "a tensor of at most"),
    ],
    ids=str,
)
def test_an_impossible_tensor(shape: tuple[int, ...], item_bytes: int, says: str) -> None:
    fault = shape_fault(shape, item_bytes)
    assert fault is not None
    assert re.search(f"^expected .*{says}|^{says}$", fault)
