"""Nested arguments and results as flat lists of tensors, related by a ``Structure``: plain data, JSON in a manifest.

Values are tuples, lists, dicts with string or integer keys, named tuples, dataclasses, ``None``, strings and numbers,
at any depth. ``unflatten`` restores the types that ``describe`` found, with two exceptions: every mapping becomes a
``dict``, and tuples other than named ones (``torch.return_types.max``) become plain tuples.
"""

import collections
import dataclasses
import functools
import keyword
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from shared.errors import SignatureMismatch

Number = Literal["bool", "int", "float"]
RecordKind = Literal["named_tuple", "dataclass"]
Constant = bool | int | float | str | None
_READ: Mapping[str, Callable[[str], Constant]] = {
    **{"none": lambda _: None, "bool": "True".__eq__},
    **{"int": int, "float": float, "str": str},
}


class _Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    pass


class TensorNode(_Node, frozen=True, tag="tensor"):
    """Place of the next tensor of the flat list."""


class NumberNode(_Node, frozen=True, tag="number"):
    """A Python number that differs between calls: the next tensor of the flat list, 0-dimensional."""

    kind: Number


class ConstantNode(_Node, frozen=True, tag="constant", dict=True):
    """A value that is part of the program. ``text`` is a number's ``repr``, because JSON has no infinity."""

    kind: Literal["none", "bool", "int", "float", "str"]
    text: str = ""

    @functools.cached_property
    def value(self) -> Constant:
        """The Python value."""
        return _READ[self.kind](self.text)


class SequenceNode(_Node, frozen=True, tag="sequence"):
    """A tuple or a list."""

    kind: Literal["tuple", "list"]
    items: "tuple[Structure, ...]"


class DictNode(_Node, frozen=True, tag="dict"):
    """A mapping, in the order of its keys."""

    keys: tuple[str | int, ...]
    items: "tuple[Structure, ...]"


class RecordNode(_Node, frozen=True, tag="record"):
    """A named tuple or a dataclass. ``class_path`` is ``package.module:Class``."""

    kind: RecordKind
    class_path: str
    fields: tuple[str, ...]
    items: "tuple[Structure, ...]"


Structure = TensorNode | NumberNode | ConstantNode | SequenceNode | DictNode | RecordNode


def merge(first: Structure, second: Structure, where: str = "the value") -> Structure:
    """Return one structure for both; differing constants become NumberNodes. Raises SignatureMismatch."""
    match first, second:
        case ConstantNode() | NumberNode(), ConstantNode() | NumberNode() if first != second:
            if first.kind == second.kind and first.kind in ("bool", "int", "float"):
                return NumberNode(first.kind)
        case SequenceNode(), SequenceNode() if first.kind == second.kind and len(first.items) == len(second.items):
            return SequenceNode(first.kind, _merge_all(first.items, second.items, where))
        case DictNode(), DictNode() if first.keys == second.keys:
            return DictNode(first.keys, _merge_all(first.items, second.items, where))
        case RecordNode(), RecordNode() if (first.class_path, first.fields) == (second.class_path, second.fields):
            items = _merge_all(first.items, second.items, where)
            return RecordNode(first.kind, first.class_path, first.fields, items)
    if first != second:
        raise SignatureMismatch(f"{where} is {_outline(first)} for some inputs and {_outline(second)} for others")
    return first


def _merge_all(first: Sequence[Structure], second: Sequence[Structure], where: str) -> tuple[Structure, ...]:
    return tuple(merge(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(first, second, strict=True)))


def leaf_names(structure: Structure, prefix: str = "") -> tuple[str, ...]:
    """Return a unique name for each tensor of the flat list, made of the keys of its path, such as ``state.1``."""
    names: list[str] = []
    for name in _leaf_names(structure, prefix):
        unique, n = name or "value", 1
        while unique in names:  # a key with a dot reads like a nested one
            n += 1
            unique = f"{name}~{n}"
        names.append(unique)
    return tuple(names)


def _leaf_names(structure: Structure, name: str) -> Iterator[str]:
    match structure:
        case TensorNode() | NumberNode():
            yield name
        case ConstantNode():
            pass
        case _:
            for key, item in zip(keys_of(structure), structure.items, strict=True):
                yield from _leaf_names(item, f"{name}.{key}" if name else str(key))


def leaf_nodes(structure: Structure) -> "Iterator[TensorNode | NumberNode]":
    """Yield the place of each tensor of the flat list."""
    match structure:
        case TensorNode() | NumberNode():
            yield structure
        case SequenceNode(items=items) | DictNode(items=items) | RecordNode(items=items):
            for item in items:
                yield from leaf_nodes(item)


def keys_of(structure: SequenceNode | DictNode | RecordNode) -> Sequence[str | int]:
    """Return the keys of a node's items: positions, keys or field names."""
    match structure:
        case SequenceNode(items=items):
            return range(len(items))
        case DictNode(keys=keys):
            return keys
        case RecordNode(fields=fields):
            return fields


def _outline(structure: Structure) -> str:
    match structure:
        case ConstantNode():
            return repr(structure.value)
        case SequenceNode(kind=kind, items=items):
            return f"a {kind} of {len(items)}"
        case DictNode(keys=keys):
            return f"a dict with the keys {list(keys)}"
        case RecordNode(class_path=class_path):
            return f"a {class_path}"
        case NumberNode(kind=kind):
            return f"a {kind}"
        case TensorNode():
            return "a tensor"


Classes = Mapping[str, type[Any]]
"""Classes of records by their ``class_path``."""
_NUMBERS: Mapping[Number, type[Any]] = {"bool": bool, "int": int, "float": float}


def is_tensor(value: object) -> bool:
    """Return True for numpy arrays and torch tensors, without importing torch."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def describe(value: Any, where: str = "the value") -> tuple[Structure, list[Any], dict[str, type[Any]]]:
    """Return the structure of ``value``, its tensors in order, and the classes of its records.

    Raises SignatureMismatch for an unsupported value, with its place below ``where``.
    """
    leaves: list[Any] = []
    classes: dict[str, type[Any]] = {}
    return _describe(value, where, leaves, classes), leaves, classes


def _describe(  # noqa: PLR0911 - one return for each kind of node
    value: Any, where: str, leaves: list[Any], classes: dict[str, type[Any]]
) -> Structure:
    def children(pairs: Iterator[tuple[Any, Any]]) -> tuple[Structure, ...]:
        return tuple(_describe(item, f"{where}[{key!r}]", leaves, classes) for key, item in pairs)

    if is_tensor(value):
        leaves.append(value)
        return TensorNode()
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case None:
            return ConstantNode("none")
        case bool() | int() | float():
            kind: Number = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
            return ConstantNode(kind, repr(_NUMBERS[kind](value)))
        case str():
            return ConstantNode("str", str(value))
        case Mapping():
            bad = [key for key in value if type(key) not in (str, int)]
            if bad:
                raise SignatureMismatch(f"{where} has the key {bad[0]!r}; expected keys that are strings or integers")
            return DictNode(tuple(value), children(iter(value.items())))
        case _ if (kind_and_fields := _record(value)) is not None:
            record, fields = kind_and_fields
            class_path = f"{type(value).__module__}:{type(value).__qualname__}"
            classes[class_path] = type(value)
            items = tuple(_describe(getattr(value, name), f"{where}.{name}", leaves, classes) for name in fields)
            return RecordNode(record, class_path, fields, items)
        case tuple() | list():
            return SequenceNode("list" if isinstance(value, list) else "tuple", children(iter(enumerate(value))))
    raise SignatureMismatch(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; expected tensors, tuples, lists, dicts, "
        "named tuples, dataclasses, None, numbers and strings"
    )


def flatten(structure: Structure, value: Any, where: str = "the value", *, constants: bool = True) -> list[Any]:
    """Return the tensors (and varying numbers) of ``value``. Raises SignatureMismatch unless it has this structure.

    A record fits any other one with the same fields. With ``constants=False``, constants are not checked, because they
    may be tensors while a program is traced.
    """
    leaves: list[Any] = []
    _flatten(structure, value, where, leaves, constants)
    return leaves


def _flatten(  # noqa: PLR0912 - one branch for each kind of node
    structure: Structure, value: Any, where: str, leaves: list[Any], constants: bool
) -> None:
    match structure:
        case TensorNode():
            if not is_tensor(value):
                raise SignatureMismatch(f"{where}: expected a tensor, found {_short(value)}")
            leaves.append(value)
        case NumberNode():
            leaves.append(value)
        case ConstantNode():
            if constants:
                _check_constant(structure, value, where)
        case SequenceNode(kind=kind, items=items):
            if not isinstance(value, list | tuple) or len(value) != len(items):
                raise SignatureMismatch(f"{where}: expected a {kind} of {len(items)}, found {_short(value)}")
            for i, (item, child) in enumerate(zip(items, value, strict=True)):
                _flatten(item, child, f"{where}[{i}]", leaves, constants)
        case DictNode(keys=keys, items=items):
            if not isinstance(value, Mapping) or value.keys() != set(keys):
                raise SignatureMismatch(f"{where}: expected a dict with the keys {list(keys)}, found {_short(value)}")
            for key, item in zip(keys, items, strict=True):
                _flatten(item, value[key], f"{where}[{key!r}]", leaves, constants)
        case RecordNode(fields=fields, items=items):
            record = _record(value)
            if record is None or set(record[1]) != set(fields):
                raise SignatureMismatch(
                    f"{where}: expected a {structure.class_path} or another record with the fields {list(fields)}, "
                    f"found {_short(value)}"
                )
            for name, item in zip(fields, items, strict=True):
                _flatten(item, getattr(value, name), f"{where}.{name}", leaves, constants)


def _check_constant(structure: ConstantNode, value: Any, where: str) -> None:
    expected = structure.value
    found = value.item() if isinstance(value, np.generic) else value
    numbers = isinstance(expected, int | float) and isinstance(found, int | float)
    same_kind = type(expected) is type(found) or (numbers and bool not in (type(expected), type(found)))
    both_nan = expected != expected and found != found  # noqa: PLR0124 - only NaN differs from itself
    if not (same_kind and (expected == found or both_nan)):
        raise SignatureMismatch(
            f"{where}: expected {expected!r}, found {_short(value)}; pass a tensor instead, or export again: "
            "values other than tensors are part of the program"
        )


def unflatten(structure: Structure, leaves: Sequence[Any], classes: Classes | None = None) -> Any:
    """Return the value of ``leaves``; records of unknown ``classes`` get equivalent ones. Raises SignatureMismatch."""
    remaining = iter(leaves)
    value = _unflatten(structure, remaining, classes or {})
    if next(remaining, remaining) is not remaining:
        expected = sum(1 for _ in leaf_nodes(structure))
        raise SignatureMismatch(f"expected {expected} tensors, found {len(leaves)}")
    return value


def _unflatten(structure: Structure, leaves: Iterator[Any], classes: Classes) -> Any:
    match structure:
        case TensorNode():
            return _next(leaves)
        case NumberNode(kind=kind):
            return _NUMBERS[kind](_next(leaves))
        case ConstantNode():
            return structure.value
        case SequenceNode(kind=kind, items=items):
            values = [_unflatten(item, leaves, classes) for item in items]
            return values if kind == "list" else tuple(values)
        case DictNode(keys=keys, items=items):
            return {key: _unflatten(item, leaves, classes) for key, item in zip(keys, items, strict=True)}
        case RecordNode(kind=kind, class_path=class_path, fields=fields, items=items):
            cls = classes.get(class_path) or equivalent_class(kind, class_path, fields)
            return _make_record(cls, kind, fields, [_unflatten(item, leaves, classes) for item in items])


def _next(leaves: Iterator[Any]) -> Any:
    try:
        return next(leaves)
    except StopIteration:
        raise SignatureMismatch("expected more tensors for this structure") from None


def _make_record(cls: type[Any], kind: RecordKind, fields: tuple[str, ...], values: list[Any]) -> Any:
    if kind == "named_tuple":
        return tuple.__new__(cls, values)
    record = object.__new__(cls)
    for name, value in zip(fields, values, strict=True):
        object.__setattr__(record, name, value)
    return record


@functools.lru_cache(maxsize=256)
def equivalent_class(kind: RecordKind, class_path: str, fields: tuple[str, ...]) -> type[Any]:
    """Return a class with the name and fields of the one at ``class_path``, which is not imported."""
    name = class_path.rpartition(":")[2].rpartition(".")[2]
    if not name.isidentifier() or keyword.iskeyword(name):
        name = "Record"
    if kind == "dataclass":
        return dataclasses.make_dataclass(name, fields)
    return collections.namedtuple(name, fields)


def _record(value: Any) -> tuple[RecordKind, tuple[str, ...]] | None:
    if isinstance(value, tuple) and isinstance(fields := getattr(value, "_fields", None), tuple):
        return "named_tuple", fields
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "dataclass", tuple(field.name for field in dataclasses.fields(value))
    return None


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and _record(value) is None:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    return f"a {type(value).__name__}" if is_tensor(value) or _record(value) is not None else repr(value)[:80]
