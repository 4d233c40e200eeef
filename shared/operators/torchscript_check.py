"""Operators of a TorchScript archive, read without torch: its code as syntax, its objects as data."""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import ProgramError
from shared.operators.findings import Findings
from shared.operators.torchscript_execution import Execution
from shared.operators.torchscript_operators import OperatorEffects
from shared.operators.torchscript_syntax import Definitions, read_code
from shared.policy.torchscript_archive import Entry
from shared.policy.torchscript_objects import ScriptObject, read_objects


def read_program(entries: Mapping[str, Entry], allowed: frozenset[str]) -> Findings:
    """Return the operators that ``forward`` may reach.

    Raises ProgramError for an archive that torch does not write, and OperatorNotAllowed for native classes.
    """
    code = {name: bytes(content) for name, content in entries.items() if name.startswith("code/")}
    definitions = read_code({name: text for name, text in code.items() if name.endswith(".py")})
    root = read_objects(entries)
    if "constants.pkl" in entries:
        read_objects(entries, "constants")
    if not isinstance(root, ScriptObject):
        raise ProgramError("data.pkl: expected a module")
    effects = OperatorEffects(allowed)
    try:
        _check_classes(definitions, root, effects)
        Execution(definitions, effects).run(root)
    except RecursionError as error:
        raise ProgramError("the program's code or objects are nested too deep to check") from error
    return Findings(frozenset(effects.used), tuple(effects.refused.items()), effects.data_dependent)


def _check_classes(definitions: Definitions, root: ScriptObject, effects: OperatorEffects) -> None:
    """Refuse code that runs while an archive is loaded, and objects other than modules: no weights replace theirs."""
    if any("__setstate__" in found.methods for found in definitions.classes.values()):
        effects.refuse("__setstate__", "runs while the archive is loaded")
    for instance in _objects(root, set()):
        found = definitions.classes.get(instance.class_name)
        if found is None:
            raise ProgramError(f"expected the code of {instance.class_name} in the archive")
        if not found.is_module:
            effects.refuse(instance.class_name, "is a class with a state of its own")


def _objects(value: Any, seen: set[int]) -> Iterator[ScriptObject]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, ScriptObject):
        yield value
        for attribute in (value.attributes or {}).values():
            yield from _objects(attribute, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _objects(item, seen)
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            yield from _objects(item, seen)
