"""Intermediate representation: the steps that a policy computes for one row of a batch.

A value is ``width`` numbers per row. It is float32 whatever its dtype outside: integers and bools are small enough to
be exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shared.policy.output_bounds import Bounds

PACK_ALIGNMENT = 16
"""Packed rows begin at multiples of this many floats."""

Unary = Literal["abs", "exp", "log", "neg", "reciprocal", "relu", "sigmoid", "sqrt", "tanh"]
Binary = Literal["add", "div", "equal", "greater", "less", "max", "min", "mul", "sub"]
Operator = Literal[
    Unary, Binary, "linear", "where", "argmax", "pick", "sum", "log_softmax", "softmax", "slice", "concat"
]
"""Operation of a step.

Comparisons give 1 and 0. ``linear`` multiplies by a weight and adds a bias, ``argmax`` gives the index of the first
largest number as a float, and ``pick`` the element of its first operand at the index in its second.
"""


@dataclass(frozen=True)
class Operand:
    """Source of a step's numbers: an input or an earlier step, or constants that are the same in every row.

    ``value`` numbers the inputs, then the steps. When ``packed`` is set, it is an offset into the packed weights and
    ``value`` is unused.
    """

    width: int
    value: int = -1
    packed: int = -1


@dataclass(frozen=True)
class Step:
    """One step with a result of ``width`` numbers. ``start`` is the first index of a slice."""

    operator: Operator
    operands: tuple[Operand, ...]
    width: int
    start: int = 0


@dataclass(frozen=True)
class Input:
    """Input array ``[rows, *shape]``."""

    dtype: str
    shape: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Output:
    """Output array ``[rows, *shape]``, copied from ``operand``.

    ``low`` and ``high`` are inclusive bounds to check, each of one number or of one per number of a row.
    """

    operand: Operand
    dtype: str
    shape: tuple[int, ...]
    low: Operand | None = None
    high: Operand | None = None


@dataclass(frozen=True)
class Packed:
    """Numbers that are the same in every row, and their offset ``place`` in the packed weights, in floats.

    ``name`` is the weight's name; it is empty for the constants in ``numbers``. A matrix ``[k, n]`` is stored row by
    row, each padded to ``stride``; ``transposed`` is true when the weight is ``[n, k]``. A vector is a one-row matrix.
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
    """A whole program. ``packed_floats`` is the length of the packed weights."""

    inputs: Sequence[Input]
    steps: Sequence[Step]
    outputs: Sequence[Output]
    packed: Sequence[Packed]
    packed_floats: int


def stride_of(columns: int) -> int:
    """Return the padded length, in floats, of a packed row of ``columns`` numbers."""
    return -(-columns // PACK_ALIGNMENT) * PACK_ALIGNMENT


def with_bounds(program: RowProgram, bounds: Sequence[Bounds]) -> RowProgram:
    """Return ``program`` with one of ``bounds`` checked for each output: its code returns 1 when all hold.

    A program whose output shapes differ from those of ``bounds`` is returned unchanged; its code returns 0.
    """
    if [output.shape for output in program.outputs] != [each.shape for each in bounds]:
        return program
    packed, end = list(program.packed), program.packed_floats
    places: dict[tuple[float, ...], int] = {}
    for numbers in (numbers for each in bounds for numbers in (each.low, each.high)):
        if numbers not in places:
            places[numbers] = end
            packed.append(Packed("", numbers, end, 1, len(numbers), stride_of(len(numbers))))
            end += stride_of(len(numbers))

    def operand(numbers: tuple[float, ...]) -> Operand:
        return Operand(len(numbers), packed=places[numbers])

    outputs = [
        replace(output, low=operand(each.low), high=operand(each.high))
        for output, each in zip(program.outputs, bounds, strict=True)
    ]
    return replace(program, outputs=outputs, packed=packed, packed_floats=end)
