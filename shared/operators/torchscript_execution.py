"""Abstract execution of TorchScript code from ``forward`` on: which operators it may reach, and what they may write.

Branches on constants (``self.training`` is False) are taken as they will be; of others both sides are. Loops are
repeated until nothing changes.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shared.errors import ProgramError
from shared.operators.torchscript_frame import Frame, Names, Place
from shared.operators.torchscript_operators import OperatorEffects
from shared.operators.torchscript_syntax import RESERVED, Definitions, ScriptClass
from shared.operators.torchscript_values import (
    OUTSIDE_CONTAINER,
    OUTSIDE_VALUE,
    TENSOR_LIST,
    Memory,
    Value,
    constant,
    joined,
    literal,
)
from shared.policy.torchscript_objects import ScriptObject, Stored

_MOST_STEPS = 500_000
_MOST_OBJECTS = 50_000
_MOST_DEPTH = 60


class Execution:
    """Runs functions of one archive on what is known of their arguments."""

    def __init__(self, definitions: Definitions, effects: OperatorEffects) -> None:
        self._definitions = definitions
        self._effects = effects
        self._made: dict[Place, Memory] = {}
        self._steps = 0

    def run(self, root: ScriptObject) -> None:
        """Run ``forward`` of the archive's module with unknown inputs. Raises ProgramError."""
        method = self._class_of(root).methods.get("forward")
        if method is None:
            raise ProgramError("expected a module with a method forward")
        inputs = [TENSOR_LIST] * (len(method.args.args) - 1)  # one list of tensors
        self.call(method, [_instance(root), *inputs], {}, ())

    def call(
        self, function: ast.FunctionDef, arguments: Sequence[Value], keywords: Mapping[str, Value], place: Place
    ) -> Value:
        """Return what is known of the result of one call."""
        if len(place) > _MOST_DEPTH:
            raise ProgramError(f"expected calls nested at most {_MOST_DEPTH} deep")
        names = self._bind(function, arguments, keywords)
        frame = Frame(self, names, place)
        frame.run(function.body)
        return joined(frame.returned) if frame.returned else constant(None)

    def step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ProgramError("the program's code is too long to check")

    def make(self, place: Place, *, is_container: bool = False) -> Memory:
        """Return the memory that the code at ``place`` makes."""
        if len(self._made) > _MOST_OBJECTS:
            raise ProgramError("the program makes too many tensors to check")
        return self._made.setdefault(place, Memory(is_local=True, is_container=is_container))

    @property
    def effects(self) -> OperatorEffects:
        return self._effects

    @property
    def definitions(self) -> Definitions:
        return self._definitions

    def _bind(self, function: ast.FunctionDef, arguments: Sequence[Value], keywords: Mapping[str, Value]) -> Names:
        parameters = [*function.args.args, *function.args.kwonlyargs]
        defaults = dict(zip(reversed(function.args.args), reversed(function.args.defaults), strict=False))
        defaults |= {
            parameter: default
            for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            if default is not None
        }
        names: Names = {}
        given = dict(zip([parameter.arg for parameter in parameters], arguments, strict=False)) | dict(keywords)
        for parameter in parameters:
            if parameter.arg in RESERVED:
                raise ProgramError(f"expected no parameter named {parameter.arg}")
            if parameter.arg in given:
                names[parameter.arg] = given[parameter.arg]
            elif parameter in defaults:
                names[parameter.arg] = literal(defaults[parameter])
            else:
                raise ProgramError(f"{function.name} lacks its argument {parameter.arg}")
        return names

    def _class_of(self, instance: ScriptObject) -> ScriptClass:
        found = self._definitions.classes.get(instance.class_name)
        if found is None:
            raise ProgramError(f"expected the code of {instance.class_name} in the archive")
        return found

    def method(self, instance: ScriptObject, name: str) -> ast.FunctionDef:
        found = self._class_of(instance).methods.get(name)
        if found is None:
            raise ProgramError(f"{instance.class_name} has no method {name}")
        return found

    def attribute(self, instance: ScriptObject, name: str) -> Value:
        """Return what is known of an attribute of an object of the archive."""
        if self._effects.allows("setattr"):
            return OUTSIDE_VALUE  # the archive states only the first value
        class_constant = self._class_of(instance).constants.get(name)
        if class_constant is not None and name in (instance.attributes or {}):
            raise ProgramError(f"{instance.class_name}: expected one value of {name}")
        if class_constant is not None:
            return literal(class_constant)
        if instance.attributes is None or name not in instance.attributes:
            return OUTSIDE_VALUE
        return _known(instance.attributes[name])


def _instance(instance: ScriptObject) -> Value:
    return Value(OUTSIDE_VALUE.memory, instance=instance)


def _known(attribute: Any) -> Value:
    if isinstance(attribute, ScriptObject):
        return _instance(attribute)
    if attribute is None or isinstance(attribute, bool | int | float | str):
        return constant(attribute)
    if isinstance(attribute, Stored):
        return replace(OUTSIDE_VALUE, may_be_none=False)
    is_tensor_list = isinstance(attribute, list) and all(isinstance(item, Stored) for item in attribute)
    return TENSOR_LIST if is_tensor_list else OUTSIDE_CONTAINER
