"""Results of reading a program's operators."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """The operators of a program.

    Args:
        operators: names of the operators that it may run.
        refused: those that are not allowed, each with the reason as the end of "NAME, which ...".
        data_dependent: see ``ProgramTraits``.
    """

    operators: frozenset[str]
    refused: tuple[tuple[str, str], ...]
    data_dependent: bool
