"""Structures: the form of nested arguments and results as plain data, with a place for each tensor.

A program takes and returns one flat list of tensors. A ``Structure`` relates that list to a nested value of tuples,
lists, dicts with string or integer keys, named tuples, dataclasses, ``None``, strings and numbers, at any depth (see
``nested_values``). It is JSON in a manifest and contains no code.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from shared.errors import SignatureMismatch

Number = Literal["bool", "int", "float"]
RecordKind = Literal["named_tuple", "dataclass"]


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
    def value(self) -> bool | int | float | str | None:
        """The Python value."""
        match self.kind:
            case "none":
                return None
            case "bool":
                return self.text == "True"
            case "int":
                return int(self.text)
            case "float":
                return float(self.text)
            case "str":
                return self.text


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
