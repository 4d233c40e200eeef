"""Classes of named tuples and dataclasses by their paths, imported only from modules that the user trusts."""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shared.policy.structure import DictNode, RecordNode, SequenceNode, Structure


def trusted_classes(structures: Iterable[Structure], trusted_prefixes: Sequence[str]) -> dict[str, type[Any]]:
    """Return the classes of all records in trusted modules, by their paths.

    A prefix ``a.b`` allows the modules ``a.b`` and ``a.b.*``. Classes that are not allowed, are missing or have other
    fields are left out; an equivalent class replaces them.
    """
    classes = {}
    for record in (record for structure in structures for record in _records(structure)):
        module, _, name = record.class_path.partition(":")
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in trusted_prefixes if prefix):
            found = _find(module, name)
            if _is(found, record):
                classes[record.class_path] = found
    return classes


def _find(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - importing runs the module's own code
        return None
    return found


def _is(found: Any, record: RecordNode) -> bool:
    """Return True when ``found`` is a class with the path, kind and fields of ``record``."""
    if not isinstance(found, type) or f"{found.__module__}:{found.__qualname__}" != record.class_path:
        return False
    if record.kind == "named_tuple":
        return issubclass(found, tuple) and getattr(found, "_fields", None) == record.fields
    return dataclasses.is_dataclass(found) and tuple(f.name for f in dataclasses.fields(found)) == record.fields


def _records(structure: Structure) -> Iterator[RecordNode]:
    if isinstance(structure, RecordNode):
        yield structure
    if isinstance(structure, RecordNode | SequenceNode | DictNode):
        for item in structure.items:
            yield from _records(item)
