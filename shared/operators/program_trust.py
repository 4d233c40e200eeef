"""The permissions under which programs are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProgramTrust:
    """Permissions for programs; the default permits pure operators only.

    Args:
        native: permission to load native code (engine ``aot``), and programs that can do the same (``executorch``).
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


def is_trusted_module(module: str, prefixes: Sequence[str]) -> bool:
    """Return True if ``module`` may be imported: a prefix ``a.b`` trusts the modules ``a.b`` and ``a.b.*``."""
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes if prefix)
