"""The programs that an export makes. Needs no torch, so that flags are checked fast."""

from collections.abc import Collection
from typing import get_args

from shared.errors import ConfigurationError, one_line
from shared.policy.manifest import ProgramKind

_USUAL: frozenset[ProgramKind] = frozenset(("torchscript", "onnx"))


def programs_of(named: Collection[ProgramKind], *, onnx: bool = True, aot: bool = False) -> tuple[ProgramKind, ...]:
    """Return the programs to make, in a fixed order: those ``named``, and TorchScript and ONNX unless one is named.

    ``onnx=False`` names TorchScript, and ``aot=True`` AOTInductor. Raises ConfigurationError for an unknown name.
    """
    known: tuple[ProgramKind, ...] = get_args(ProgramKind)
    wanted = {*named, *(() if onnx else ("torchscript",)), *(("aot",) if aot else ())}
    if unknown := wanted.difference(known):
        found = one_line(repr(min(unknown)), 80)
        raise ConfigurationError(f"name programs among {', '.join(known)}: found {found}")
    if not wanted & _USUAL:
        wanted |= _USUAL
    return tuple(kind for kind in known if kind in wanted)
