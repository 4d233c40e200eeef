"""``data.pkl`` is read as data, with memory in proportion to its length."""

import pickle
import tracemalloc

import pytest

from shared.errors import ProgramError
from shared.policy.torchscript_objects import read_objects

# A tuple of one number, kept under the number that follows.
_KEPT = b"\x80\x02K\x07r%s\x85."


def test_kept_values_have_small_numbers() -> None:
    assert read_objects(_KEPT % (3).to_bytes(4, "little")) == (7,)


@pytest.mark.parametrize("number", [100, 2**20, 2**31 - 1])
def test_a_kept_value_of_a_huge_number_is_refused_before_memory_is_taken(number: int) -> None:
    """Python's reader takes eight bytes for every number below it: 16 GB for 2**31."""
    data = _KEPT % number.to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(ProgramError, match=f"kept values, found the number {number}"):
        read_objects(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_other_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(ProgramError, match=r"data\.pkl: expected the opcodes that torch writes"):
        read_objects(pickle.dumps({"a": [1, 2.5, "x"]}, protocol))
