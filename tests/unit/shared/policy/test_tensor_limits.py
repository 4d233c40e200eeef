"""The limits of shapes, at their last accepted and first refused value."""

import re

import pytest

from shared.policy.tensor_limits import MAX_TENSOR_BYTES, shape_fault, size_of, size_terms


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


def test_a_size_is_a_sum_of_names_and_a_number() -> None:
    assert size_terms("t") == (("t",), 0)
    assert size_terms("t+n2-12") == (("t", "n2"), -12)
    assert size_of("t+n+1", {"t": 3, "n": 4}) == 8
    assert size_of("t+n", {"t": 3}) is None


@pytest.mark.parametrize("text", ["", "1", "t+", "2*t", "t+1+n", "t t", "-t", "t+1234567890", "\u0663", "t" * 65])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a name, or a sum"):
        size_terms(text)
