"""Intermediate representation: the steps that a policy computes for one row of a batch.

A value is ``width`` numbers per row. It is float32 whatever its dtype outside: integers and bools are small enough to
be exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from shared.engines.row_compiler.views import Move, View
from shared.policy.output_bounds import Bounds

PACK_ALIGNMENT = 16
"""Packed rows begin at multiples of this many floats."""

Unary = Literal["abs", "erf", "exp", "log", "mish", "neg", "reciprocal", "relu", "sigmoid", "softplus", "sqrt", "tanh"]
Scaled = Literal["elu", "leaky_relu"]
Binary = Literal["add", "div", "equal", "greater", "greater_equal", "less", "less_equal", "max", "min", "mul", "sub"]
Reduction = Literal["reduce_max", "reduce_mean", "reduce_min", "reduce_sum"]
InGroups = Literal[Reduction, "argmax", "layer_norm", "log_softmax", "pick", "softmax"]
Elementwise = Literal[Unary, Scaled, Binary, "where"]
Operator = Literal[Elementwise, InGroups, "product", "arrange"]
"""Operation of a step.

Comparisons give 1 and 0. ``elu`` and ``leaky_relu`` read the step's ``numbers``, ``layer_norm`` its epsilon there.
``product`` multiplies by a matrix, or one for each group, and adds a bias. ``argmax`` gives the index of the first
largest number as a float, and ``pick`` the element of its first operand at the index in its second. ``arrange`` copies
each operand by one of the step's ``moves``.
"""


class Groups(NamedTuple):
    """Row-major grid ``[outer, length, inner]`` of an operand, whose middle axis an operator works along.

    A product multiplies ``[outer, rows, length]`` by ``[outer, length, inner]``.
    """

    outer: int
    length: int
    inner: int = 1


_NONE = Groups(1, 1)


@dataclass(frozen=True)
class Operand:
    """Number of an input or step (``value``; inputs come first), or constants at ``packed`` in the packed weights."""

    width: int
    value: int = -1
    packed: int = -1


@dataclass(frozen=True)
class Step:
    """One step with a result of ``width`` numbers; see ``Operator`` for the fields that it reads."""

    operator: Operator
    operands: tuple[Operand, ...]
    width: int
    groups: Groups = _NONE
    numbers: tuple[float, ...] = ()
    moves: tuple[Move, ...] = ()


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

    ``name`` is the weight's name; it is empty for the constants in ``numbers``. The matrix ``view`` of the weight is
    stored row by row, each padded to ``stride``. A vector is a one-row matrix.
    """

    name: str
    numbers: tuple[float, ...]
    place: int
    view: View
    stride: int

    @property
    def floats(self) -> int:
        """Length of the packed matrix, in floats."""
        return self.view.shape[0] * self.stride


@dataclass(frozen=True)
class RowProgram:
    """A whole program. ``packed_floats`` is the length of the packed weights."""

    inputs: Sequence[Input]
    steps: Sequence[Step]
    outputs: Sequence[Output]
    packed: Sequence[Packed]
    packed_floats: int

    @property
    def work(self) -> int:
        """Estimate of the multiplications of a row: each packed number is read at least once."""
        more = 0
        for step in self.steps:
            if step.operator == "product":
                stacked = step.width * step.groups.length
                is_packed = step.operands[1].value < 0
                more += stacked - step.groups.length * step.groups.inner if is_packed else stacked
        return self.packed_floats + more


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
            packed.append(Packed("", numbers, end, View.of((1, len(numbers))), stride_of(len(numbers))))
            end += stride_of(len(numbers))

    def operand(numbers: tuple[float, ...]) -> Operand:
        return Operand(len(numbers), packed=places[numbers])

    outputs = [
        replace(output, low=operand(each.low), high=operand(each.high))
        for output, each in zip(program.outputs, bounds, strict=True)
    ]
    return replace(program, outputs=outputs, packed=packed, packed_floats=end)


# Number i of the result depends only on number i of each operand, or on its only one, so it can overwrite one.
_IN_PLACE = frozenset({"where", *get_args(Unary), *get_args(Scaled), *get_args(Binary)})


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
            if program.steps[step].operator in _IN_PLACE:
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
    """Map each value that an output needs to its last reading step; outputs are read one step after the last."""
    uses = dict.fromkeys((output.operand.value for output in program.outputs), len(program.steps))
    for number in reversed(range(len(program.steps))):
        if len(program.inputs) + number in uses:
            for operand in program.steps[number].operands:
                if operand.value >= 0:
                    uses.setdefault(operand.value, number)
    return uses
