"""The objects in an archive's ``data.pkl``, read as data: no class of Python or torch is constructed."""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

from shared.errors import OperatorNotAllowed, ProgramError
from shared.policy.torchscript_archive import Entry


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOST_BYTES = 4 * 2**20
# The opcodes that torch writes. Others might mean something else to torch's reader than to Python's.
_OPCODES = _names(
    """
    PROTO GLOBAL EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT MARK APPEND APPENDS SETITEM
    SETITEMS BINUNICODE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1
    BINFLOAT BINPERSID REDUCE NEWOBJ BUILD STOP
    """
)
_NATIVE = "__torch__.torch.classes."
# Bytes of one number by the name of its storage. Quantized types have no place among them.
_STORAGES = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "ComplexHalfStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


class ScriptObject:
    """An instance of a class of the archive. ``attributes`` is None when ``__setstate__`` rebuilds them."""

    class_name = ""

    def __new__(cls, *_: object) -> "ScriptObject":
        instance = super().__new__(cls)
        instance.attributes = {}
        return instance

    attributes: dict[str, Any] | None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) and all(isinstance(key, str) for key in state) else None


class Stored:
    """A tensor. ``storage`` is the key of its values in the archive's ``data/``."""

    def __init__(self, storage: str) -> None:
        self.storage = storage


class Unnamed:
    """A value that carries no information here: a dtype, a device, an enumeration."""


class _StorageType:
    """The type of a storage, with the bytes of one of its numbers."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


def read_objects(entries: Mapping[str, Entry], name: str = "data") -> Any:
    """Return the value that is pickled in ``NAME.pkl``. The values of its tensors are in ``NAME/``.

    Raises ProgramError, also for a tensor that claims more bytes than the archive holds of it: torch reads and writes
    beyond their end. Raises OperatorNotAllowed for an object of a native class.
    """
    data = bytes(entries[f"{name}.pkl"])
    if len(data) > _MOST_BYTES:
        raise ProgramError(f"expected a {name}.pkl of at most {_MOST_BYTES} bytes, found {len(data)}")
    try:
        for opcode, argument, place in pickletools.genops(data):  # noqa: B007 - the place of the last one is read below
            if opcode.name not in _OPCODES:
                raise ProgramError(f"{name}.pkl: expected the opcodes that torch writes, found {opcode.name}")
            if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
                # Python's reader takes memory for every number below it.
                raise ProgramError(f"{name}.pkl: expected at most {len(data)} kept values, found the number {argument}")
        if place != len(data) - 1:
            raise ProgramError(f"{name}.pkl: expected nothing after its end")
        return _Reader(io.BytesIO(data), entries, name).load()
    except (OperatorNotAllowed, ProgramError):
        raise
    except Exception as error:  # pickle raises errors of many types for malformed data
        raise ProgramError(f"{name}.pkl: {type(error).__name__}: {error}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, entries: Mapping[str, Entry], name: str) -> None:
        super().__init__(data)
        self._entries = entries
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path.startswith(_NATIVE):
            raise OperatorNotAllowed(
                f"store plain tensors instead of {path.removeprefix('__torch__.')}, which is native code"
            )
        if module == "__torch__" or module.startswith("__torch__."):
            return _script_class(path)
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        found = _KNOWN.get(path)
        if found is None and module == "torch" and name.islower():
            found = Unnamed
        if found is None:
            raise ProgramError(f"data.pkl: expected tensors and objects of the archive, found {path}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _StorageType() as stored, str(key), _, int(numbers)) if numbers >= 0:
                needed, held = numbers * stored.itemsize, len(self._entries.get(f"{self._name}/{key}", b""))
            case _:
                raise ProgramError(f"{self._name}.pkl: expected a storage, found {str(pid)[:80]}")
        if needed > held:
            raise ProgramError(f"{self._name}/{key[:40]}: expected the {needed} bytes of its tensors, found {held}")
        return Stored(key)


def _script_class(path: str) -> type[ScriptObject]:
    return type(path, (ScriptObject,), {"class_name": path})


def _rebuild_tensor(storage: Any, *_: Any) -> Stored:
    if not isinstance(storage, Stored):
        raise ProgramError("data.pkl: expected the storage of a tensor")
    return Stored(storage.storage)


def _first(value: Any, *_: Any) -> Any:
    return value


def _unnamed(*_: Any) -> Unnamed:
    return Unnamed()


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": dict,
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_boollist": list,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch.device": _unnamed,
}
