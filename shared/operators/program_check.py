"""The check of a program's operators, once per program and permissions."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from shared.errors import OperatorNotAllowed, PermanentLoadError
from shared.operators import onnx_lists, torchscript_lists
from shared.operators.findings import Findings
from shared.operators.onnx_check import read_graph
from shared.operators.program_trust import ProgramTrust
from shared.operators.torchscript_check import read_program
from shared.policy.manifest import ProgramKind
from shared.policy.program_digest import program_digest, torchscript_digest
from shared.policy.torchscript_archive import Entry, read_archive

_MOST_NAMED = 8
_MOST_OF_A_NAME = 60
_MOST_CHARACTERS = 299


@dataclass(frozen=True)
class ProgramTraits:
    """Properties of a program that its operators show.

    Args:
        data_dependent: True if the values of inputs or weights steer control flow or the sizes of arrays, so that a
            trial with some weights says little about others.
        operators: names of all operators that it uses, sorted.
    """

    data_dependent: bool
    operators: tuple[str, ...] = ()


_ANYTHING = ProgramTraits(data_dependent=True)
_EXPORTED = ProgramTraits(data_dependent=False)  # torch.export follows one path, and ExecuTorch knows the sizes


def check_program(kind: ProgramKind, data: bytes, trust: ProgramTrust) -> ProgramTraits:
    """Return the traits of a program. Results are cached by the program's digest.

    Programs of ExecuTorch, native code and importable classes have no list of operators: other permissions cover them.

    Raises OperatorNotAllowed unless every operator is on the list or allowed by ``trust``, and ProgramError for bytes
    that are no program of ``kind``.
    """
    if kind == "torchscript":
        return check_archive(read_archive(data), trust)
    if kind != "onnx":
        return _EXPORTED if kind == "executorch" else _ANYTHING
    return _checked(_Program(program_digest(kind, data), lambda allowed: read_graph(data, allowed)), trust)


def check_archive(entries: Mapping[str, Entry], trust: ProgramTrust) -> ProgramTraits:
    """Return the traits of a TorchScript program, as ``check_program`` does, from the archive's entries."""
    return _checked(_Program(torchscript_digest(entries), lambda allowed: read_program(entries, allowed)), trust)


def listed_operators() -> dict[str, tuple[str, ...]]:
    """Return the names of all operators that programs may use without permission, in groups."""
    groups = {
        "ONNX": onnx_lists.ALLOWED,
        "TorchScript": torchscript_lists.READING,
        "TorchScript, on tensors, lists and dicts that the same call made": torchscript_lists.WRITING,
    }
    return {group: tuple(sorted(names)) for group, names in groups.items()}


class _Program:
    """A program for the cache: programs are equal when their digests are."""

    def __init__(self, digest: str, read: Callable[[frozenset[str]], Findings]) -> None:
        self._digest = digest
        self._read: Callable[[frozenset[str]], Findings] | None = read

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Program) and self._digest == other._digest

    def take_findings(self, allowed: frozenset[str]) -> Findings:
        """Read the program and forget its bytes."""
        assert self._read is not None
        read, self._read = self._read, None
        return read(allowed)


@functools.lru_cache(maxsize=64)
def _findings(program: _Program, allowed: frozenset[str]) -> Findings:
    return program.take_findings(allowed)


def _checked(program: _Program, trust: ProgramTrust) -> ProgramTraits:
    try:
        findings = _findings(program, frozenset(trust.allowed_operators))
    except PermanentLoadError:
        if trust.programs:
            return _ANYTHING
        raise
    if findings.refused and not trust.programs:
        raise OperatorNotAllowed(_message(findings.refused))
    return ProgramTraits(findings.data_dependent, tuple(sorted(findings.operators)))


def _message(refused: Iterable[tuple[str, str]]) -> str:
    reasons = dict(refused)
    names = sorted(reasons)
    first, reason = _plain(names[0]), _plain(reasons[names[0]])
    message = f"replace {first}, which {reason}, or permit it with --allow-operator {first} if you trust the publisher."
    if len(names) > 1:
        message += f" Also not allowed: {', '.join(map(_plain, names[1:_MOST_NAMED]))}."
    return message[:_MOST_CHARACTERS]


def _plain(text: str) -> str:
    """Return text from a program without characters that would change a log, and not too much of it."""
    return "".join(character if character.isprintable() else "?" for character in text)[:_MOST_OF_A_NAME]
