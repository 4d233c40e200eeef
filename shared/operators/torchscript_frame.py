"""One call in the abstract execution of TorchScript code: its statements and expressions."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import ProgramError
from shared.operators.torchscript_lists import SHAPE_ATTRIBUTES
from shared.operators.torchscript_syntax import RESERVED
from shared.operators.torchscript_values import (
    OUTSIDE_VALUE,
    Value,
    constant,
    element,
    everything_in,
    join,
)

if TYPE_CHECKING:
    from shared.operators.torchscript_execution import Execution

Names = dict[str, Value]
Place = tuple[int, ...]
"""The calls that lead to a place in the code."""


class Frame:
    """One call in progress: the values of its names, and everything that it may return."""

    def __init__(self, execution: "Execution", names: Names, place: Place) -> None:
        self.returned: list[Value] = []
        self._execution = execution
        self._effects = execution.effects
        self._names = names
        self._place = place

    def run(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self._run(statement)

    def _run(self, statement: ast.stmt) -> None:
        self._execution.step()
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._value(value))
            case ast.AnnAssign(annotation=ast.Subscript(value=ast.Name(id="Final"))):
                # The digest of a program ignores the order of such lines, which only a class may have.
                self._effects.refuse("Final", "is a constant outside of a class")
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, self._value(value))
            case ast.Expr(value=value):
                self._value(value)
            case ast.Return(value=value):
                self.returned.append(constant(None) if value is None else self._value(value))
            case ast.If():
                self._branch(statement)
            case ast.For(orelse=[]) | ast.While(orelse=[]):
                self._loop(statement)
            case ast.Assert(test=test, msg=message):
                self._effects.steer(self._value(test))
                if message is not None:
                    self._value(message)
            case ast.Pass():
                pass
            case _:
                self._effects.refuse(type(statement).__name__, "is a statement that the check does not know")

    def _branch(self, statement: ast.If) -> None:
        condition = self._value(statement.test)
        if isinstance(condition.constant, bool):
            self.run(statement.body if condition.constant else statement.orelse)
            return
        self._effects.steer(condition)
        before = dict(self._names)
        self.run(statement.body)
        after, self._names = self._names, before
        self.run(statement.orelse)
        self._names = _join_names(after, self._names)

    def _loop(self, statement: ast.For | ast.While) -> None:
        match statement:
            case ast.For(iter=ast.Call(func=ast.Name(id="range"), args=bounds, keywords=[])) if (
                "range" not in self._names
            ):
                for bound in bounds:
                    self._effects.steer(self._value(bound))
            case ast.While(test=test):
                self._effects.refuse("while", "may run for ever")
                self._effects.steer(self._value(test))
            case _:
                self._effects.refuse("for", "iterates over something else than a range")
        while True:
            before, changes = dict(self._names), self._effects.changes
            if isinstance(statement, ast.For):
                self._assign(statement.target, OUTSIDE_VALUE if self._effects.allows("for") else Value())
            self.run(statement.body)
            if isinstance(statement, ast.While):
                self._value(statement.test)
            self._names = _join_names(before, self._names)
            if self._names == before and self._effects.changes == changes:
                return

    def _assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                if name in RESERVED:
                    raise ProgramError(f"expected no variable named {name}")
                self._names[name] = value
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                items = value.items
                if items is None or len(items) != len(targets):
                    items = (element(value),) * len(targets)
                for inner, item in zip(targets, items, strict=True):
                    self._assign(inner, item)
            case ast.Subscript(value=container, slice=index):
                arguments = [self._value(container), self._value(index), value]
                self._apply("_set_item", arguments, {}, target)
            case ast.Attribute(attr=name):
                self._effects.refuse("setattr", f"assigns the attribute {name}, so that later calls may differ")
            case _:
                self._effects.refuse(type(target).__name__, "is an assignment that the check does not know")

    def _value(self, expression: ast.expr) -> Value:  # noqa: PLR0911, PLR0912 - one case for each kind of expression
        self._execution.step()
        match expression:
            case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
                return constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._apply("neg", [self._value(operand)], {}, expression)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._apply("__not__", [self._value(operand)], {}, expression)
            case ast.Tuple(elts=parts):
                items = tuple(self._value(part) for part in parts)
                return replace(self._container(items, expression), items=items)
            case ast.List(elts=parts):
                return self._container([self._value(part) for part in parts], expression)
            case ast.Dict(keys=keys, values=values):
                parts = [part for part in (*keys, *values) if part is not None]
                return self._container([self._value(part) for part in parts], expression)
            case ast.Subscript(value=container, slice=index):
                return self._item(self._value(container), self._value(index))
            case ast.Attribute():
                return self._attribute(expression)
            case ast.Call():
                return self._call(expression)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self._value(test)
                if isinstance(condition.constant, bool):
                    return self._value(body if condition.constant else orelse)
                self._effects.steer(condition)
                return join(self._value(body), self._value(orelse))
            case _:
                self._effects.refuse(type(expression).__name__, "is an expression that the check does not know")
                return OUTSIDE_VALUE

    def _name(self, name: str) -> Value:
        if name in self._names:
            return self._names[name]
        if name in ("inf", "nan"):
            return Value()
        raise ProgramError(f"expected a value for the name {name}")

    def _container(self, items: Sequence[Value], expression: ast.expr) -> Value:
        memory = self._execution.make((*self._place, id(expression)), is_container=True)
        inside = everything_in(items)
        if not inside <= memory.contents:
            memory.contents |= inside
            self._effects.changes += 1
        return Value(frozenset((memory,)), any(item.from_data for item in items))

    def _item(self, container: Value, index: Value) -> Value:
        items, position = container.items, index.constant
        if items is not None and type(position) is int and -len(items) <= position < len(items):
            return items[position]
        return element(container)

    def _attribute(self, expression: ast.Attribute) -> Value:
        path = _dotted(expression)
        if path is not None and path.split(".")[0] not in self._names:
            if path.startswith("CONSTANTS."):
                return replace(OUTSIDE_VALUE, from_data=False)  # the same for all weights and inputs
            if path.startswith("__torch__."):
                return Value(definition=path)
            raise ProgramError(f"expected a value, found {path}")
        owner = self._value(expression.value)
        if owner.instance is not None:
            return self._execution.attribute(owner.instance, expression.attr)
        if expression.attr in SHAPE_ATTRIBUTES and expression.attr not in self._execution.definitions.members:
            return Value()
        return element(owner)

    def _call(self, call: ast.Call) -> Value:
        if any(isinstance(argument, ast.Starred) for argument in call.args) or any(
            k.arg is None for k in call.keywords
        ):
            self._effects.refuse("Starred", "is an expression that the check does not know")
            return OUTSIDE_VALUE
        path = _dotted(call.func)
        if path is not None and path.split(".")[0] not in self._names:
            return self._call_named(path, call)
        if not isinstance(call.func, ast.Attribute):
            owner, name = self._value(call.func), "forward"
        else:
            owner, name = self._value(call.func.value), call.func.attr
        arguments, keywords = self._arguments(call)
        if owner.definition is not None and not isinstance(call.func, ast.Attribute):
            return self._call_definition(owner.definition, arguments, keywords, call)
        if owner.instance is not None:
            method = self._execution.method(owner.instance, name)
            return self._execution.call(method, [owner, *arguments], keywords, (*self._place, id(call)))
        if name in self._execution.definitions.members:
            self._effects.refuse(name, "is called on a value of an unknown class")
        return self._apply(name, [owner, *arguments], keywords, call)

    def _arguments(self, call: ast.Call) -> tuple[list[Value], dict[str, Value]]:
        arguments = [self._value(argument) for argument in call.args]
        return arguments, {keyword.arg: self._value(keyword.value) for keyword in call.keywords if keyword.arg}

    def _call_named(self, path: str, call: ast.Call) -> Value:
        """Return the result of a call by a name that is no variable: an operator, a function or a class."""
        if (known := self._special_form(path, call.args)) is not None:
            return known
        arguments, keywords = self._arguments(call)
        root, _, rest = path.partition(".")
        if root == "__torch__":
            return self._call_definition(path, arguments, keywords, call)
        if root == "torch":
            return self._apply(rest, arguments, keywords, call)
        if root == "ops":
            namespace, _, name = rest.partition(".")
            return self._apply(name if namespace == "aten" else f"{namespace}::{name}", arguments, keywords, call)
        return self._apply(path, arguments, keywords, call)

    def _special_form(self, path: str, parts: Sequence[ast.expr]) -> Value | None:
        """Return the result of a call whose arguments are types or names, or None for any other call."""
        match path, parts:
            case (("annotate" | "unchecked_cast"), [_, value]):
                return self._value(value)
            case "uninitialized", _:
                return Value(may_be_none=True)
            case "isinstance", [value, _]:
                return Value(from_data=self._value(value).from_data)
            case "getattr", [owner, ast.Constant(value=str(name))]:
                instance = self._value(owner).instance
                return None if instance is None else self._execution.attribute(instance, name)
            case _:
                return None

    def _call_definition(self, path: str, arguments: list[Value], keywords: dict[str, Value], call: ast.Call) -> Value:
        definitions = self._execution.definitions
        if path in definitions.functions:
            place = (*self._place, id(call))
            return self._execution.call(definitions.functions[path], arguments, keywords, place)
        found = definitions.classes.get(path)
        if found is None:
            raise ProgramError(f"expected the code of {path} in the archive")
        if not found.is_tuple:
            self._effects.refuse(path, "makes an object of a class with methods")
        return replace(self._container([*arguments, *keywords.values()], call), from_data=True)

    def _apply(
        self, name: str, arguments: Sequence[Value], keywords: Mapping[str, Value], expression: ast.expr
    ) -> Value:
        return self._effects.apply(
            name, arguments, keywords, lambda: self._execution.make((*self._place, id(expression)))
        )


def _dotted(expression: ast.expr) -> str | None:
    """Return ``a.b.c`` for names joined by dots, else None."""
    parts = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    return ".".join([expression.id, *reversed(parts)]) if isinstance(expression, ast.Name) else None


def _join_names(first: Names, second: Names) -> Names:
    # A name that only one side binds is unbound afterwards for torch as well.
    return {name: join(value, second[name]) for name, value in first.items() if name in second}
