"""The permissions under which programs are loaded."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProgramTrust:
    """Permissions for programs; the default permits pure operators only.

    Args:
        native: permission to load native code (engine ``aot``).
        modules: prefixes of the modules that may be imported (engines ``compile`` and ``eager``).
        allowed_operators: names of operators to allow in addition to the lists, as ``OperatorNotAllowed`` states them.
        programs: permission to run programs with any operators.
    """

    native: bool = False
    modules: tuple[str, ...] = ()
    allowed_operators: tuple[str, ...] = ()
    programs: bool = False


PURE_ONLY = ProgramTrust()
"""No permission beyond pure operators."""
