"""``data.pkl`` is read as data, with memory in proportion to its length, and no tensor exceeds its values."""

import pickle
import tracemalloc

import pytest

from shared.errors import ProgramError
from shared.policy.torchscript_objects import read_objects

# A tuple of one number, kept under the number that follows.
_KEPT = b"\x80\x02K\x07r%s\x85."


def test_kept_values_have_small_numbers() -> None:
    assert read_objects({"data.pkl": _KEPT % (3).to_bytes(4, "little")}) == (7,)


@pytest.mark.parametrize("number", [100, 2**20, 2**31 - 1])
def test_a_kept_value_of_a_huge_number_is_refused_before_memory_is_taken(number: int) -> None:
    """Python's reader takes eight bytes for every number below it: 16 GB for 2**31."""
    data = _KEPT % number.to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(ProgramError, match=f"kept values, found the number {number}"):
        read_objects({"data.pkl": data})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_other_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(ProgramError, match=r"data\.pkl: expected the opcodes that torch writes"):
        read_objects({"data.pkl": pickle.dumps({"a": [1, 2.5, "x"]}, protocol)})


def _tensor(storage: bytes, numbers: bytes, key: bytes = b"0") -> bytes:
    """Return the pickled tensor of two numbers, in a storage of this type and size."""
    place = b"(X\x07\0\0\0storage" + storage + b"X\x01\0\0\0" + key + b"X\x03\0\0\0cpu" + numbers + b"tQ"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + b"K\0(K\x02t(K\x01t\x89ccollections\nOrderedDict\n)RtR."
    )


@pytest.mark.parametrize("name", ["data", "constants"])
def test_a_tensor_has_no_more_numbers_than_the_archive(name: str) -> None:
    """torch believes the stated size: it would read, and copy weights, beyond the values."""
    pickled = {f"{name}.pkl": _tensor(b"ctorch\nFloatStorage\n", b"K\x02")}
    assert read_objects(pickled | {f"{name}/0": bytes(8)}, name).storage == "0"
    with pytest.raises(ProgramError, match=rf"{name}/0: expected the 8 bytes of its tensors, found 7"):
        read_objects(pickled | {f"{name}/0": bytes(7)}, name)
    with pytest.raises(ProgramError, match=rf"{name}/0: expected the 8 bytes of its tensors, found 0"):
        read_objects(pickled, name)


@pytest.mark.parametrize("itemsize", ["BoolStorage 1", "BFloat16Storage 2", "LongStorage 8", "ComplexDoubleStorage 16"])
def test_the_type_of_a_storage_gives_the_size_of_its_numbers(itemsize: str) -> None:
    storage, size = itemsize.split()
    pickled = {"data.pkl": _tensor(f"ctorch\n{storage}\n".encode(), b"K\x02")}
    assert read_objects(pickled | {"data/0": bytes(2 * int(size))}).storage == "0"
    with pytest.raises(ProgramError, match="of its tensors"):
        read_objects(pickled | {"data/0": bytes(2 * int(size) - 1)})


@pytest.mark.parametrize(
    ("storage", "numbers"),
    [
        (b"K\x07", b"K\x02"),  # torch takes the number of a dtype, too
        (b"ctorch\nQInt8Storage\n", b"K\x02"),
        (b"ctorch\nfloat32\n", b"K\x02"),
        (b"ctorch\nFloatStorage\n", b"J\xff\xff\xff\xff"),
        (b"ctorch\nFloatStorage\n", b"G\0\0\0\0\0\0\0\0"),
    ],
)
def test_a_storage_of_another_form_is_refused(storage: bytes, numbers: bytes) -> None:
    with pytest.raises(ProgramError, match=r"data\.pkl: expected"):
        read_objects({"data.pkl": _tensor(storage, numbers), "data/0": bytes(64)})
