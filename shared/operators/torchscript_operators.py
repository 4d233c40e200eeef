"""The effect of single TorchScript operators in the abstract execution: which are allowed, and what they return."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.operators.torchscript_lists import (
    ALIASING,
    CONCATENATING,
    CONTAINER_WRITES,
    FACTORIES,
    FRESH,
    LIST_WRITES,
    LISTING,
    RANDOM_UNLESS,
    SCALARS,
    SHAPES,
    STEERING,
    TENSOR_WRITES,
    Condition,
)
from shared.operators.torchscript_values import UNKNOWN, Memory, Value, constant, everything_in, joined

_NOT_LISTED = "is not on the list of pure and deterministic operators"
_WRITES = "writes into an input, a weight or an attribute"
_RANDOM = "is random, or changes the module, in training mode"

_FOLDED: Mapping[str, Callable[..., Any]] = {
    "__not__": operator.not_,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "bool": bool,
}
_LARGE = 2**53
_PLAIN = (bool, int, float, str)


class OperatorEffects:
    """Applies operators by name and records which were used, which are not allowed, and the trait."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self.used: set[str] = set()
        self.refused: dict[str, str] = {}
        self.data_dependent = False
        self.changes = 0
        """Number of times that the contents of any container grew."""
        self._allowed = allowed

    def allows(self, name: str) -> bool:
        """Return True for an operator that the user allows beyond the lists."""
        return name in self._allowed

    def refuse(self, name: str, reason: str) -> None:
        """Record an operator that is not allowed, unless the user allows it."""
        self.used.add(name)
        self.data_dependent = True  # nothing is known of it
        if not self.allows(name):
            self.refused.setdefault(name, reason)

    def steer(self, condition: Value) -> None:
        """Record that ``condition`` decides which code runs."""
        self.data_dependent |= condition.from_data

    def apply(
        self, name: str, arguments: Sequence[Value], keywords: Mapping[str, Value], made: Callable[[], Memory]
    ) -> Value:
        """Return the result of an operator; ``made`` returns the memory of a new tensor or container."""
        self.used.add(name)
        values = [*arguments, *keywords.values()]
        from_data = any(everything.from_data for everything in values)
        if name in STEERING:
            self.data_dependent = True
        if name in SCALARS and from_data:
            self.data_dependent = True
        if name == "where" and len(values) == 1:
            self.data_dependent = True
        if "out" in keywords:
            self._write(name, keywords["out"])
        self._check_randomness(name, arguments, keywords)
        if (known := _fold(name, arguments)) is not UNKNOWN:
            return constant(known)
        if name in SHAPES:
            return Value()
        if name in CONTAINER_WRITES:
            return self._write_container(name, arguments, values)
        if name in TENSOR_WRITES:
            self._write(name, arguments[0] if arguments else joined(values))
            self._add_contents(arguments[:1], _inside(arguments[1:]))
            return arguments[0] if arguments else joined(values)
        if name in LIST_WRITES and any(m.is_container and not m.is_local for v in arguments[:1] for m in v.memory):
            self.refuse(name, _WRITES)
        if name in FRESH or name in CONCATENATING:
            result = Value(frozenset((made(),)), from_data or name in FACTORIES)
            self._add_contents([result], _inside(values) if name in CONCATENATING else frozenset())
            return result
        if name not in ALIASING:
            self.refuse(name, _NOT_LISTED)
        inside, result = everything_in(values), Value(frozenset((made(),)))
        if name in LISTING or (arguments and any(memory.is_container for memory in arguments[0].memory)):
            self._add_contents([result], inside | result.memory)  # perhaps a list, or a list of tuples of lists
        return Value(inside | result.memory, from_data, may_be_none=True)

    def _write(self, name: str, target: Value) -> None:
        if not all(memory.is_local for memory in target.memory):
            self.refuse(name, _WRITES)

    def _write_container(self, name: str, arguments: Sequence[Value], values: Sequence[Value]) -> Value:
        if not arguments:
            self.refuse(name, _WRITES)
            return joined(values)
        self._write(name, arguments[0])
        self._add_contents(arguments[:1], everything_in(arguments[1:]))
        return Value(everything_in(values), any(value.from_data for value in values), may_be_none=True)

    def _add_contents(self, containers: Sequence[Value], added: frozenset[Memory]) -> None:
        for memory in (memory for container in containers for memory in container.memory):
            if memory.is_local and not added <= memory.contents:
                memory.contents |= added
                self.changes += 1

    def _check_randomness(self, name: str, arguments: Sequence[Value], keywords: Mapping[str, Value]) -> None:
        alternatives = RANDOM_UNLESS.get(name)
        if alternatives is None:
            return
        if not any(all(_holds(condition, arguments, keywords) for condition in all_of) for all_of in alternatives):
            self.refuse(name, _RANDOM)


def _inside(values: Sequence[Value]) -> frozenset[Memory]:
    return frozenset(inside for value in values for memory in value.memory for inside in memory.contents)


def _holds(condition: Condition, arguments: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
    given = keywords.get(condition.name)
    if given is None and condition.position < len(arguments):
        given = arguments[condition.position]
    if given is None:
        return condition.is_default
    if condition.value is bool:
        return isinstance(given.constant, bool)
    return type(given.constant) is type(condition.value) and bool(given.constant == condition.value)


def _fold(name: str, arguments: Sequence[Value]) -> Any:
    """Return the result of an operator on constants if it is known, else ``UNKNOWN``."""
    if name in ("__is__", "__isnot__") and len(arguments) == 2:
        states = [argument.is_none for argument in arguments]
        if None in states or not any(states):
            return UNKNOWN
        return all(states) == (name == "__is__")
    known = [argument.constant for argument in arguments]
    if name not in _FOLDED or not known or any(not isinstance(value, _PLAIN) for value in known):
        return UNKNOWN
    if any(map(_is_large, known)):
        return UNKNOWN
    try:
        result = _FOLDED[name](*known)
    except (TypeError, ValueError, ArithmeticError):
        return UNKNOWN
    return UNKNOWN if _is_large(result) else result


def _is_large(value: Any) -> bool:
    """Return True for a number that torch might round or wrap around."""
    return isinstance(value, int | float) and abs(value) > _LARGE
