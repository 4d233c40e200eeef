"""Digest of a program without its weights: versions with equal ones differ in weights only. Needs no torch."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import ProgramError
from shared.policy.manifest import ProgramKind
from shared.policy.torchscript_archive import Entry, read_archive
from shared.policy.torchscript_objects import ScriptObject, Stored, read_objects

# torch writes a class's constants in the order of a Python set, which differs between processes.
# Only such lines have a value after their type: the items of a dict in a method must not be taken for them.
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[[^\n=]*\] = .*\n)+", re.MULTILINE)
# Values seen while tracing and source locations do not change the program's results.
_NOT_PROGRAM = re.compile(r"data/\d+|\.data/serialization_id|traced_inputs(/\d+|\.pkl)|.*\.debug_pkl")
_CLASS = re.compile(rb"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]\n", re.MULTILINE)
_QUOTED = re.compile(rb'"(\w+)"')


def program_digest(kind: ProgramKind, program: bytes) -> str:
    """Return the SHA-256 of a program without its weights; only TorchScript archives have some. Raises ProgramError."""
    if kind == "torchscript":
        return torchscript_digest(read_archive(program))
    return hashlib.sha256(program).hexdigest()


def torchscript_digest(entries: Mapping[str, Entry]) -> str:
    """Return the digest of an archive. Tensors that are neither parameters nor buffers belong to the program."""
    digest = hashlib.sha256()
    try:
        weights = _weight_storages(entries)
    except RecursionError as error:
        raise ProgramError("data.pkl: expected objects that are nested less deep") from error
    for name in sorted(entries):
        if _NOT_PROGRAM.fullmatch(name) and (not name.startswith("data/") or name.removeprefix("data/") in weights):
            continue
        content: Entry = entries[name]
        if name.startswith("code/"):
            content = _CONSTANTS.sub(_sorted_lines, bytes(content))
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _sorted_lines(match: re.Match[bytes]) -> bytes:
    return b"".join(sorted(match[0].splitlines(keepends=True)))


def _weight_storages(entries: Mapping[str, Entry]) -> set[str]:
    """Return the storages of all parameters and buffers: the weights file replaces them."""
    names = {
        class_name: set(_QUOTED.findall(parameters + buffers))
        for path, content in entries.items()
        if path.startswith("code/") and path.endswith(".py")
        for class_name, parameters, buffers in _classes(path, bytes(content))
    }
    return {
        value.storage
        for module in _modules(read_objects(entries), set())
        for attribute, value in (module.attributes or {}).items()
        if isinstance(value, Stored) and attribute.encode() in names.get(module.class_name, ())
    }


def _classes(path: str, code: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    prefix = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
    for name, parameters, buffers in _CLASS.findall(code):
        yield f"{prefix}.{name.decode()}", parameters, buffers


def _modules(value: Any, seen: set[int]) -> Iterator[ScriptObject]:
    if isinstance(value, ScriptObject) and id(value) not in seen:
        seen.add(id(value))
        yield value
        for attribute in (value.attributes or {}).values():
            yield from _modules(attribute, seen)
