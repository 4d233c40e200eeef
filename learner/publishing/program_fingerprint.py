"""Detection of an edited program: everything of a module that its exported programs hold, other than the weights."""

import dis
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_LIBRARIES = ("torch", "numpy")
_MOST_BYTES = 4096
_DEPTH = 3
_NOT_PROGRAM = frozenset({"training"})  # exports are in eval mode


class _Same:
    """An object that equals only itself. It stays alive, so that no other object takes its address."""

    __slots__ = ("_object", "_version")

    def __init__(self, held: object, version: int = 0) -> None:
        self._object = held
        self._version = version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._object is other._object and self._version == other._version

    def __hash__(self) -> int:
        return id(self._object)


class ProgramFingerprint:
    """The state of a module's program; ``changes`` compares it with the program as it is now.

    It covers the names, shapes and dtypes of parameters and buffers, the layers and their classes, the code that
    ``forward`` reaches in methods and in global functions, hooks, and the attributes and global values that this code
    reads. An attribute that the code itself assigns is a result, not a part of the program.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names: dict[int, tuple[CodeType, frozenset[str], frozenset[str]]] = {}
        self._library_names: dict[type, frozenset[str]] = {}
        self._found = self._read()

    def changes(self) -> list[str]:
        """Return the names of the parts that differ; empty if a version needs only new weights."""
        found = self._read()
        if found == self._found:
            return []
        missing = object()
        names = dict.fromkeys([*self._found, *found])
        return [name for name in names if self._found.get(name, missing) != found.get(name, missing)]

    def accept(self) -> None:
        """Make the program as it is now the one to compare with."""
        self._found = self._read()

    def _read(self) -> dict[str, object]:
        found: dict[str, object] = {}
        classes: dict[type, frozenset[str]] = {}
        for name, part in self._module.named_modules(remove_duplicate=False):
            label = name or "self"
            kind = type(part)
            found[label] = kind
            for tensors in (part._parameters, part._buffers):
                for key, tensor in tensors.items():
                    found[f"{label}.{key}"] = None if tensor is None else (tensor.shape, tensor.dtype)
            names = classes.get(kind)
            if names is None:
                names = classes[kind] = self._read_class(kind, found)
            own = vars(part)
            for attribute in own.keys() & names:
                found[f"{label}.{attribute}"] = _value(own[attribute])
            for hooks in (part._forward_hooks, part._forward_pre_hooks):
                if hooks:
                    found[f"{label}: hooks"] = tuple(_value(hook) for hook in hooks.values())
        return found

    def _read_class(self, kind: type, found: dict[str, object]) -> frozenset[str]:
        """Add the code of ``kind`` to ``found``. Return the names that it reads and does not assign."""
        if (names := self._library_names.get(kind)) is not None:
            return names
        bases = [base for base in kind.__mro__ if base not in (nn.Module, object)]
        is_library = all(_is_library(base.__module__) for base in bases)
        reads, writes, seen = {"forward"}, set[str](), set[str]()
        functions: dict[int, FunctionType] = {}
        while unseen := reads - seen:
            seen |= unseen
            new = [
                function
                for name in unseen
                for base in bases
                for function in self._class_member(base, name, found, is_library=is_library)
            ]
            while new:
                function = new.pop()
                if id(function) in functions:
                    continue
                functions[id(function)] = function
                loaded, stored = self._names_of(function.__code__)
                reads |= loaded
                writes |= stored
                if not _is_library(function.__module__):
                    found[f"{kind.__qualname__}: {function.__module__}.{function.__qualname__}"] = _value(function)
                    new += self._globals_of(function, loaded, found)
        names = frozenset(reads - writes - _NOT_PROGRAM)
        if is_library:
            self._library_names[kind] = names
        return names

    @staticmethod
    def _class_member(base: type, name: str, found: dict[str, object], *, is_library: bool) -> Iterator[FunctionType]:
        member = vars(base).get(name)
        if member is None:
            return
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(member, FunctionType):
            yield from _unwrapped(member)
        elif not is_library:
            found[f"{base.__qualname__}.{name}"] = _value(member)

    @staticmethod
    def _globals_of(function: FunctionType, names: frozenset[str], found: dict[str, object]) -> list[FunctionType]:
        functions = []
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            if isinstance(value, FunctionType):
                functions += [each for each in _unwrapped(value) if not _is_library(each.__module__)]
            elif not isinstance(value, ModuleType | type):
                found[f"{function.__module__}.{name}"] = _value(value)
        return functions

    def _names_of(self, code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
        """Return the attributes and globals that ``code`` reads, and the attributes that it assigns."""
        if (known := self._names.get(id(code))) is not None:
            return known[1:]
        loaded, stored = set[str](), set[str]()
        for instruction in dis.get_instructions(code):
            if isinstance(instruction.argval, str):
                if instruction.opname == "STORE_ATTR":
                    stored.add(instruction.argval)
                elif instruction.opname.startswith("LOAD_") and instruction.argval in code.co_names:
                    loaded.add(instruction.argval)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                more, assigned = self._names_of(inner)
                loaded |= more
                stored |= assigned
        self._names[id(code)] = (code, frozenset(loaded), frozenset(stored))
        return self._names[id(code)][1:]


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


def _unwrapped(function: FunctionType) -> Iterator[FunctionType]:
    """Yield ``function`` and the functions that decorators hide in it."""
    wrapped: Any = function
    while isinstance(wrapped, FunctionType):
        yield wrapped
        wrapped = getattr(wrapped, "__wrapped__", None)


def _value(value: Any, depth: int = _DEPTH) -> object:
    """Return an object that is equal for values that mean the same to a program."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, float):
        return value.hex()  # NaN equals NaN
    if isinstance(value, np.ndarray) and value.nbytes <= _MOST_BYTES and value.dtype != object:
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Tensor):
        return _Same(value, 0 if value.is_inference() else value._version)
    return _Same(value) if depth == 0 else _nested_value(value, depth - 1)


def _nested_value(value: Any, depth: int) -> object:
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return value.__code__, _value(value.__defaults__, depth), tuple(_value(cell, depth) for cell in cells)
    if isinstance(value, MethodType):
        return _value(value.__func__, depth), _Same(value.__self__)
    if isinstance(value, list | tuple):
        return type(value), tuple(_value(item, depth) for item in value)
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        return tuple((_value(key, depth), _value(item, depth)) for key, item in value.items())
    return _Same(value)


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True
