"""Intermediate representation: the steps that a policy computes for one row of a batch.

A value is ``width`` numbers per row. It is float32 whatever its dtype outside: integers and bools are small enough to
be exact.
"""

from collections.abc import Mapping, Sequence
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
    """Number of an input or step (``value``; inputs come first), or constants at ``packed`` in the packed weights."""

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
    """Output array ``[rows, *shape]``, a copy of ``operand``; ``low`` and ``high`` are inclusive bounds to check."""

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
    """Return ``program`` with ``bounds`` checked for its outputs, or unchanged when their shapes are others."""
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


# Number i of the result may depend on any number of an operand, so the result cannot overwrite an operand.
_NOT_IN_PLACE = frozenset({"linear", "argmax", "pick", "sum", "log_softmax", "softmax", "slice", "concat"})


@dataclass(frozen=True)
class Scratch:
    """Offset of each used value in ``places``, and the size of all in ``numbers``; both in numbers per row."""

    places: Mapping[int, int]
    numbers: int


def plan_scratch(program: RowProgram) -> Scratch:
    """Return offsets at which no two values that are alive at the same time overlap."""
    last_use = _last_uses(program)
    widths = [source.width for source in program.inputs] + [step.width for step in program.steps]
    places: dict[int, int] = {}
    free: list[tuple[int, int]] = []  # (width, place)
    end = 0
    for value, width in enumerate(widths):
        if value not in last_use:
            continue
        step = value - len(program.inputs)
        dying = []
        if step >= 0:
            operands = {operand.value for operand in program.steps[step].operands if operand.value >= 0}
            dying = [operand for operand in sorted(operands) if last_use[operand] == step]
            if program.steps[step].operator not in _NOT_IN_PLACE:
                reused = next((operand for operand in dying if widths[operand] == width), None)
                if reused is not None:
                    dying.remove(reused)
                    places[value] = places[reused]
        if value not in places:
            fitting = [gap for gap in free if gap[0] >= width]
            if fitting:
                gap = min(fitting)
                free.remove(gap)
                places[value] = gap[1]
            else:
                places[value], end = end, end + width
        free += [(widths[operand], places[operand]) for operand in dying]
    return Scratch(places, end)


def _last_uses(program: RowProgram) -> dict[int, int]:
    """Map each used value to its last reading step; outputs count as read one step after the last."""
    uses: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        uses.update({operand.value: number for operand in step.operands if operand.value >= 0})
    uses.update({output.operand.value: len(program.steps) for output in program.outputs})
    return uses
