"""Values of the abstract execution of TorchScript code: what is known of them before the code runs."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from shared.policy.torchscript_objects import ScriptObject


class Memory:
    """A tensor or container that one place in the code makes.

    Args:
        is_local: True if it is made during the call.
        is_container: True for a list or dict; False if it may be a tensor.
        contents: the elements of a container.
    """

    def __init__(self, *contents: "Memory", is_local: bool, is_container: bool = False) -> None:
        self.is_local = is_local
        self.is_container = is_container
        self.contents = set(contents)


OUTSIDE = Memory(is_local=False)
"""Every tensor that exists before the call or outlives it: inputs, weights, attributes."""
OUTSIDE_LIST = Memory(OUTSIDE, is_local=False, is_container=True)
"""Every list of such tensors."""
OUTSIDE_NEST = Memory(OUTSIDE, OUTSIDE_LIST, is_local=False, is_container=True)
"""Every other container that exists before the call or outlives it."""
OUTSIDE_NEST.contents.add(OUTSIDE_NEST)


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Value:
    """Everything known of one value.

    Args:
        memory: the objects that it may be, or share memory with.
        from_data: True if it may depend on the values in tensors, and not only on their shapes.
        constant: its value when that is known, else ``UNKNOWN``.
        may_be_none: False if it is known not to be None.
        instance: the object of the archive that it is, if it is one.
        items: the elements of a tuple, if known.
        definition: the name of the function or class that it is, if it is one.
    """

    memory: frozenset[Memory] = frozenset()
    from_data: bool = False
    constant: Any = field(default=UNKNOWN)
    may_be_none: bool = False
    instance: ScriptObject | None = None
    items: "tuple[Value, ...] | None" = None
    definition: str | None = None

    @property
    def is_none(self) -> bool | None:
        """True or False when known, else None."""
        if self.constant is None:
            return True
        return None if self.may_be_none else False


OUTSIDE_VALUE = Value(frozenset((OUTSIDE,)), from_data=True, may_be_none=True)
TENSOR_LIST = Value(frozenset((OUTSIDE_LIST,)), from_data=True)
OUTSIDE_CONTAINER = Value(frozenset((OUTSIDE_NEST,)), from_data=True, may_be_none=True)


def constant(value: Any) -> Value:
    """Return the value of a constant that Python and TorchScript agree on: a number, a string, a boolean or None."""
    return Value(constant=value, may_be_none=value is None)


def literal(expression: ast.expr) -> Value:
    """Return the value of a literal default or constant."""
    match expression:
        case ast.Constant(value=value):
            return constant(value) if value is None or isinstance(value, bool | int | float | str) else Value()
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as value)):
            return constant(-value)
        case ast.Tuple(elts=parts):
            return Value(items=tuple(map(literal, parts)))
        case ast.List() | ast.Dict():
            return OUTSIDE_CONTAINER  # one object for all calls
        case _:
            return Value()


def join(first: Value, second: Value) -> Value:
    """Return what is known of a value that is either."""
    if first == second:
        return first
    items = None
    if first.items is not None and second.items is not None and len(first.items) == len(second.items):
        items = tuple(map(join, first.items, second.items))
    return Value(
        first.memory | second.memory,
        first.from_data or second.from_data,
        first.constant if _is_same(first.constant, second.constant) else UNKNOWN,
        first.may_be_none or second.may_be_none,
        first.instance if first.instance is second.instance else None,
        items,
        first.definition if first.definition == second.definition else None,
    )


def joined(values: Iterable[Value]) -> Value:
    """Return what is known of a value that is one of ``values``; of no value, nothing is known to be in memory."""
    result: Value | None = None
    for value in values:
        result = value if result is None else join(result, value)
    return Value() if result is None else result


def element(value: Value) -> Value:
    """Return what is known of an element or a view of ``value``."""
    inside = {inner for outer in value.memory for inner in outer.contents}
    memory = inside | {outer for outer in value.memory if not outer.is_container}
    if value.items is not None:
        within = joined(value.items)
        return replace(within, memory=within.memory | memory, constant=UNKNOWN, instance=None, definition=None)
    return Value(frozenset(memory), value.from_data, may_be_none=True)


def everything_in(values: Iterable[Value]) -> frozenset[Memory]:
    """Return all memory that is reachable from ``values``."""
    found: set[Memory] = set()
    waiting = [memory for value in values for memory in _memories(value)]
    while waiting:
        memory = waiting.pop()
        if memory not in found:
            found.add(memory)
            waiting.extend(memory.contents)
    return frozenset(found)


def _memories(value: Value) -> Iterable[Memory]:
    yield from value.memory
    for item in value.items or ():
        yield from _memories(item)


def _is_same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and (first is second or bool(first == second))
