"""``data.pkl`` is read as data, with memory in proportion to its length, and no tensor exceeds its values."""

import pickle
import tracemalloc
from typing import Any

import pytest
import torch

from shared.errors import OperatorNotAllowed, ProgramError
from shared.policy.torchscript_archive import read_archive
from shared.policy.torchscript_objects import ScriptObject, Stored, Unnamed, read_objects
from tests.support.script_archives import CLASS, small_archive
from tests.support.script_pickles import StorageId, opcodes, pickled, pickled_global, pickled_object

_LIMIT = 4 * 2**20
# A tuple of one number, kept under the number that follows.
_KEPT = b"\x80\x02K\x07r%s\x85."


def test_kept_values_have_small_numbers() -> None:
    for number in (3, len(_KEPT) + 2):
        assert read_objects({"data.pkl": _KEPT % number.to_bytes(4, "little")}) == (7,)


@pytest.mark.parametrize("number", [100, 2**20, 2**31 - 1])
def test_a_kept_value_of_a_huge_number_is_refused_before_memory_is_taken(number: int) -> None:
    """Python's reader takes eight bytes for every number below it: 16 GB for 2**31."""
    data = _KEPT % number.to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(ProgramError, match=f"kept values, found the number {number}"):
        read_objects({"data.pkl": data})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_short_opcode_is_bounded_too() -> None:
    assert read_objects({"data.pkl": b"\x80\x02K\x07q\x08\x85."}) == (7,)
    with pytest.raises(ProgramError, match="at most 8 kept values, found the number 9"):
        read_objects({"data.pkl": b"\x80\x02K\x07q\x09\x85."})


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


def read(data: bytes) -> Any:
    """Read ``data.pkl`` of an archive with one storage, "7"."""
    return read_objects({"data.pkl": data, "data/7": b"values"})


def test_the_objects_of_an_archive() -> None:
    module = read_objects(read_archive(small_archive()))
    assert isinstance(module, ScriptObject)
    assert module.class_name == CLASS
    attributes = module.attributes
    assert attributes is not None
    assert (attributes["names"], attributes["steps"], attributes["training"]) == (["a", "b"], 2, False)
    tensors = [attributes["weight"], attributes["count"], *attributes["scales"]]
    assert all(isinstance(tensor, Stored) for tensor in tensors)
    assert sorted(tensor.storage for tensor in tensors) == ["0", "1", "2"]


@pytest.mark.parametrize("module", ["__torch__", "__torch__.package.module"])
def test_a_class_of_the_archive_is_known_by_its_name_alone(module: str) -> None:
    found = read(pickled_global(module, "Small"))
    assert issubclass(found, ScriptObject)
    assert found.class_name == f"{module}.Small"


@pytest.mark.parametrize(
    ("state", "attributes"),
    [({"a": 1}, {"a": 1}), ({}, {}), ({"a": 1, 2: 3}, None), (["a"], None), ("a", None), (None, None)],
    ids=str,
)
def test_attributes_are_a_dict_of_names_or_unknown(state: object, attributes: object) -> None:
    assert read(pickled_object(state)).attributes == attributes


@pytest.mark.parametrize("name", ["float32", "contiguous_format"])
def test_a_dtype_carries_no_information(name: str) -> None:
    assert read(pickled_global("torch", name)) is Unnamed


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "Tensor"),
        ("torch", "QInt8Storage"),
        ("torch.hub", "load"),
        ("numpy", "FloatStorage"),
        ("__torch__x", "Small"),
        ("x__torch__", "Small"),
    ],
)
def test_another_global_is_refused_by_name(module: str, name: str) -> None:
    with pytest.raises(ProgramError, match=rf"objects of the archive, found {module}\.{name}$"):
        read(pickled_global(module, name))


def test_an_object_of_a_native_class_is_refused() -> None:
    with pytest.raises(OperatorNotAllowed, match=r"instead of torch\.classes\.tensorexpr\.Cuda, which is native"):
        read(pickled_global("__torch__.torch.classes.tensorexpr", "Cuda"))


def test_a_persistent_id_is_a_storage() -> None:
    assert read(pickled(StorageId("7"))).storage == "7"


@pytest.mark.parametrize(
    "pid",
    [
        ("module", torch.ByteStorage, "7", "cpu", 6),
        ("storage", None, "7", "cpu", 6),
        ("storage", torch.ByteStorage, "7", "cpu"),
        ("storage", torch.ByteStorage, "7", "cpu", 6, None),
        ("storage", torch.ByteStorage, 7, "cpu", 6),
        ("storage", torch.ByteStorage, "7", "cpu", -1),
        "7",
    ],
    ids=str,
)
def test_another_persistent_id_is_refused(pid: object) -> None:
    with pytest.raises(ProgramError, match="expected a storage, found"):
        read(pickled(StorageId("", pid=pid)))


def test_a_storage_may_be_empty() -> None:
    assert read(pickled(StorageId("8", pid=("storage", torch.ByteStorage, "8", "cpu", 0)))).storage == "8"


def test_a_tensor_is_its_storage() -> None:
    rebuild = ("torch._utils", "_rebuild_tensor_v2")
    assert read(pickled_global(*rebuild, opcodes(pickled(StorageId("7"))) + b"K\0\x86R")).storage == "7"
    with pytest.raises(ProgramError, match="expected the storage of a tensor"):
        read(pickled_global(*rebuild, b"K\0K\0\x86R"))


def test_an_opcode_that_torch_does_not_write_is_refused() -> None:
    assert read(pickle.dumps([1, "a"], protocol=2)) == [1, "a"]
    with pytest.raises(ProgramError, match="expected the opcodes that torch writes, found FRAME"):
        read(pickle.dumps([1, "a"], protocol=4))


def test_bytes_after_the_end_are_refused() -> None:
    for more in (b"\0", b".", pickle.dumps(1, protocol=2)):
        with pytest.raises(ProgramError, match="nothing after its end"):
            read(pickle.dumps([], protocol=2) + more)


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"0.", b".", b"\x80\x02]"], ids=repr)
def test_an_incomplete_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match=r"^data\.pkl: "):
        read(data)


def test_the_size_of_a_pickle_is_bounded() -> None:
    size = _LIMIT - len(b"\x80\x02X----.")
    largest = b"\x80\x02X" + size.to_bytes(4, "little") + b"x" * size + b"."
    assert len(largest) == _LIMIT
    assert read(largest) == "x" * size
    with pytest.raises(ProgramError, match="at most 4194304 bytes, found 4194305"):
        read(largest + b".")
