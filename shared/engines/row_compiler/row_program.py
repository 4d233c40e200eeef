"""What a policy computes for one row of a batch: steps on vectors of floats, and nothing else.

A value is ``width`` numbers for each row. Whatever its dtype outside, it is float32 inside: whole numbers and truth
values are small enough to be exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PACKED_TOGETHER = 16
"""Packed rows begin at multiples of so many floats."""

Operator = Literal[
    "linear",  # weights times the operand, plus a bias
    "abs",
    "exp",
    "log",
    "neg",
    "reciprocal",
    "relu",
    "sigmoid",
    "sqrt",
    "tanh",
    "add",
    "div",
    "equal",  # comparisons give 1 and 0
    "greater",
    "less",
    "max",
    "min",
    "mul",
    "sub",
    "where",
    "argmax",  # the first of the largest, as a number
    "pick",  # of the first operand, the number at the place that the second one says
    "sum",
    "log_softmax",
    "softmax",
    "slice",
    "concat",
]


@dataclass(frozen=True)
class Operand:
    """Where a step takes numbers from: what an input or a step before gave, or numbers that are the same in each row.

    ``value`` counts inputs first, then steps. With ``packed`` set, it is a place in the packed weights instead.
    """

    width: int
    value: int = -1
    packed: int = -1


@dataclass(frozen=True)
class Step:
    """One step, which gives ``width`` numbers. ``start`` is where a slice begins."""

    operator: Operator
    operands: tuple[Operand, ...]
    width: int
    start: int = 0


@dataclass(frozen=True)
class Input:
    """An array [rows, *shape] from outside."""

    dtype: str
    shape: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Output:
    """An array [rows, *shape] for outside, made of ``operand``.

    ``low`` and ``high``: between which it has to be, each of one number or of as many as a row has.
    """

    operand: Operand
    dtype: str
    shape: tuple[int, ...]
    low: Operand | None = None
    high: Operand | None = None


@dataclass(frozen=True)
class Packed:
    """Numbers from outside of the rows, and their place among the packed weights, counted in floats.

    ``name`` is that of a weight, or empty where ``numbers`` says them. A matrix [k, n] lies there row by row, each
    padded to ``stride``; ``transposed`` where the weight is [n, k]. Vectors are matrices of one row.
    """

    name: str
    numbers: tuple[float, ...]
    place: int
    rows: int
    columns: int
    stride: int
    transposed: bool = False


@dataclass(frozen=True)
class RowProgram:
    """All of it. ``packed_floats`` is how long the packed weights are."""

    inputs: Sequence[Input]
    steps: Sequence[Step]
    outputs: Sequence[Output]
    packed: Sequence[Packed]
    packed_floats: int


def stride_of(columns: int) -> int:
    """From one row of a packed matrix to the next: where a vector may begin."""
    return -(-columns // PACKED_TOGETHER) * PACKED_TOGETHER
