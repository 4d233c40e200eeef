"""Construction of a row program step by step. Steps that would mix rows are refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shared.engines.row_compiler.constant_folding import MOST_NUMBERS, Constant, has_batch
from shared.engines.row_compiler.row_program import (
    PACK_ALIGNMENT,
    Elementwise,
    Groups,
    Input,
    Operand,
    Output,
    Packed,
    RowProgram,
    Scaled,
    Step,
    Unary,
    stride_of,
)
from shared.engines.row_compiler.views import View, move
from shared.errors import ProgramUnsupported

_MOST_STEPS = 500
_MOST_WIDTH = 2**16  # numbers in a row
_MOST_MOVES = 1000  # each is a loop of its own
# Integers are stored as float32, which is exact for small ones such as indices and the starts of spaces.
_LARGEST_NUMBER = 2**22
KINDS = {
    "bool": "truth",
    **dict.fromkeys(("float16", "float32", "float64"), "float"),
    **dict.fromkeys(("int32", "int64"), "number"),
    **dict.fromkeys(("int8", "int16", "uint8", "uint16"), "narrow"),
}


class Batch(NamedTuple):
    """Axis of the batch. If others are merged into it, the entries of those before the batch number ``ahead``."""

    axis: int
    ahead: int = 1


@dataclass(frozen=True)
class Tensor:
    """Operand or result of a step, in row-major order.

    ``batch`` is None for a tensor that is the same for all rows. ``shape`` is the part of one row: 1 at the batch axis,
    or more when the graph merges another axis into it, such as ``[rows * heads, n]``.
    ``kind`` is float, truth (bool), other, or one of three kinds of integers: number (small), observed (from an input,
    possibly too large to be exact), narrow (8 or 16 bits, whose sums would wrap around). When ``below`` is not empty,
    number ``i`` of each row is an integer in [0, below[i]).
    """

    operand: Operand
    shape: tuple[int, ...]
    batch: Batch | None = None
    kind: str = "float"
    below: tuple[int, ...] = ()

    @property
    def batch_axis(self) -> int | None:
        return None if self.batch is None else self.batch.axis

    def batch_after(self, order: Sequence[int]) -> Batch | None:
        """Return the batch when axis ``i`` comes from axis ``order[i]``."""
        return None if self.batch is None else self.batch._replace(axis=order.index(self.batch.axis))

    def axis(self, axis: int) -> int:
        """Return ``axis`` counted from the start. Raises ProgramUnsupported unless it is one of a row's."""
        place = axis + len(self.shape) if axis < 0 else axis
        if not 0 <= place < len(self.shape) or place == self.batch_axis:
            raise ProgramUnsupported(f"an operator along axis {axis} of rows of shape {self.shape}")
        return place

    def groups(self, axis: int) -> Groups:
        """Return the groups of numbers along ``axis``."""
        return Groups(math.prod(self.shape[:axis]), self.shape[axis], math.prod(self.shape[axis + 1 :]))


@dataclass(frozen=True)
class Weight:
    """Part of a float32 weight of ``size`` numbers that no step has read yet."""

    name: str
    size: int
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape


Value = Tensor | Weight | Constant | list["Tensor | Weight"]


def kind_of(dtype: "np.dtype[np.generic]") -> str:
    return KINDS.get(str(dtype), "other")


def require_float(x: Tensor, what: str) -> None:
    if x.kind != "float":
        raise ProgramUnsupported(f"{what} of values that are not float32")


class RowBuilder:
    """Adds inputs and steps to a program. Every method raises ProgramUnsupported for operands that do not fit."""

    def __init__(self) -> None:
        self._inputs: list[Input] = []
        self._steps: list[Step] = []
        self._packed: dict[tuple[str, View, tuple[float, ...]], Packed] = {}
        self._floats = 0
        self._moves = 0

    def program(self, outputs: Sequence[Output]) -> RowProgram:
        """Return the program with these outputs."""
        # Single rows read whole vectors, from any number on.
        floats = self._floats + PACK_ALIGNMENT
        return RowProgram(self._inputs, self._steps, outputs, tuple(self._packed.values()), floats)

    def input(self, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]) -> Tensor:
        """Add the next input ``[rows, *shape]``. All inputs come before the first step."""
        width = math.prod(shape)
        if kind_of(dtype) == "other" or dtype in (np.float64, np.float16) or width > _MOST_WIDTH:
            raise ProgramUnsupported(f"an input of {dtype} {shape}")
        self._inputs.append(Input(str(dtype), shape, width))
        kind = "observed" if kind_of(dtype) == "number" else kind_of(dtype)
        return Tensor(Operand(width, value=len(self._inputs) - 1), (1, *shape), batch=Batch(0), kind=kind)

    def tensor(self, value: Value | None) -> Tensor:
        """Return ``value`` as a tensor that a step can read."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Weight):
            if value.view.is_row_major:
                row = View((1, math.prod(value.shape)), (0, 1), value.view.start)
                return Tensor(self._pack(value.name, row), value.shape)
            whole = Tensor(self._pack(value.name, View.of((1, value.size))), (value.size,))
            return self.arranged(whole, value.view)
        if not isinstance(value, np.ndarray) or value.size > MOST_NUMBERS or has_batch(value):
            raise ProgramUnsupported("an operand that is not a tensor")
        if value.dtype.kind in "iu" and ((value > _LARGEST_NUMBER) | (value < -_LARGEST_NUMBER)).any():
            raise ProgramUnsupported("integers that are too large for float32")
        numbers = tuple(value.astype(np.float32).reshape(-1).tolist())
        operand = self._pack("", View.of((1, value.size)), numbers)
        return Tensor(operand, value.shape, kind=kind_of(value.dtype))

    def step(self, step: Step) -> Operand:
        """Add a step and return its result."""
        if len(self._steps) >= _MOST_STEPS or not 0 < step.width <= _MOST_WIDTH:
            raise ProgramUnsupported(f"more than {_MOST_STEPS} steps, or {step.width} numbers in a row")
        self._moves += len(step.moves)
        if self._moves > _MOST_MOVES:
            raise ProgramUnsupported(f"more than {_MOST_MOVES} copies")
        self._steps.append(step)
        return Operand(step.width, value=len(self._inputs) + len(self._steps) - 1)

    def unary(self, operator: Unary | Scaled, x: Tensor, *numbers: float) -> Tensor:
        """Add a step on floats that keeps the shape."""
        require_float(x, operator)
        return replace(x, operand=self.step(Step(operator, (x.operand,), x.operand.width, numbers=numbers)))

    def elementwise(self, operator: Elementwise, tensors: Sequence[Tensor]) -> Tensor:
        """Add an elementwise step on operands that are broadcast to one shape."""
        shape, batch = common_shape(operator, tensors)
        operands = tuple(self.expanded(tensor, shape).operand for tensor in tensors)
        return Tensor(self.step(Step(operator, operands, math.prod(shape))), shape, batch)

    def expanded(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``x`` with its numbers repeated as in ``shape``; a tensor of one number stays one."""
        if x.operand.width in (1, math.prod(shape)):
            return x
        return self.arranged(x, View.of(x.shape).expanded(shape))

    def arranged(self, x: Tensor, view: View, batch: Batch | None = None) -> Tensor:
        """Return the numbers of ``x`` that ``view`` shows; ``batch`` is the batch there."""
        width = math.prod(view.shape)
        if view.is_row_major and view.start == 0 and width == x.operand.width:
            return replace(x, shape=view.shape, batch=batch)
        moves = (move(view, View.of(view.shape)),)
        operand = self.step(Step("arrange", (x.operand,), width, moves=moves))
        below = tuple(np.array(x.below)[view.places()].tolist()) if x.below else ()
        return Tensor(operand, view.shape, batch, x.kind, below)

    def turned(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Return ``x`` with axis ``i`` taken from axis ``order[i]``."""
        return self.arranged(x, View.of(x.shape).transposed(order), x.batch_after(order))

    def joined(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Return tensors of one kind and one shape, but for ``axis``, side by side along that axis."""
        first, lengths = tensors[0], [tensor.shape[axis] for tensor in tensors]
        shape = (*first.shape[:axis], sum(lengths), *first.shape[axis + 1 :])
        if any(
            (x.kind, x.batch, x.shape[:axis], x.shape[axis + 1 :])
            != (first.kind, first.batch, shape[:axis], shape[axis + 1 :])
            for x in tensors
        ):
            raise ProgramUnsupported("Concat of several dtypes or shapes")
        target, moves, below = View.of(shape), [], np.zeros(math.prod(shape), np.int64)
        for i, x in enumerate(tensors):
            part = target.cut(axis, sum(lengths[:i]), lengths[i])
            moves.append(move(View.of(x.shape), part))
            below[part.places()] = x.below or 0
        operand = self.step(Step("arrange", tuple(x.operand for x in tensors), math.prod(shape), moves=tuple(moves)))
        limits = tuple(below.tolist()) if below.all() else ()
        return Tensor(operand, shape, first.batch, first.kind, limits)

    def linear(self, x: Value | None, weight: Value | None, bias: Value | None, *, transposed: bool) -> Tensor:
        """Multiply rows by a weight [k, n], or [n, k] when ``transposed``, and add a bias [n]."""
        if not isinstance(weight, Weight) or len(weight.shape) != 2:
            raise ProgramUnsupported("a matrix product other than rows times a weight")
        x = self.tensor(x)
        require_float(x, "a matrix product")
        matrix = weight.view.transposed((1, 0)) if transposed else weight.view
        rows, columns = matrix.shape
        if not x.shape or x.shape[-1] != rows or x.batch_axis == len(x.shape) - 1:
            raise ProgramUnsupported(f"a matrix product of {x.shape} with {matrix.shape}")
        operands = (x.operand, self._pack(weight.name, matrix))
        width = x.operand.width // rows * columns
        product = Step("product", operands, width, Groups(1, rows, columns))
        result = Tensor(self.step(product), (*x.shape[:-1], columns), x.batch)
        return result if bias is None else self.sum(result, self.tensor(bias))

    def sum(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two tensors. A weight that is added to each row of a product becomes its bias."""
        for product, bias in ((x, y), (y, x)):
            step = self._steps[product.operand.value - len(self._inputs)] if self._is_step(product) else None
            if step is not None and step.operator == "product" and len(step.operands) == 2:
                columns = (step.groups.inner,)
                is_vector = bias.operand.packed >= 0 and stripped(bias.shape) == stripped(columns)
                if is_vector and bias.kind == "float" and len(bias.shape) <= len(product.shape):
                    biased = replace(step, operands=(*step.operands, bias.operand))
                    return replace(product, operand=self.step(biased))
        require_float(x, "a sum")
        require_float(y, "a sum")
        return self.elementwise("add", [x, y])

    def _is_step(self, x: Tensor) -> bool:
        return x.operand.value >= len(self._inputs)

    def _pack(self, name: str, view: View, numbers: tuple[float, ...] = ()) -> Operand:
        """Return the place of these numbers in the packed weights; equal numbers share one place."""
        rows, columns = view.shape
        key = (name, view, numbers)
        if key not in self._packed:
            stride = stride_of(columns)
            self._packed[key] = Packed(name, numbers, self._floats, view, stride)
            self._floats += rows * stride
        return Operand(columns, packed=self._packed[key].place)


def common_shape(what: str, tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], Batch | None]:
    """Return the shape to which ``tensors`` are broadcast, and the batch in it."""
    shapes = [tensor.shape for tensor in tensors]
    unfit = ProgramUnsupported(f"{what} of operands of shapes {shapes}")
    found = {(len(x.shape) - x.batch.axis, x.batch.ahead) for x in tensors if x.batch is not None}
    if len(found) > 1:
        raise unfit
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise unfit from error
    if not found:
        return shape, None
    from_end, ahead = found.pop()
    batch = len(shape) - from_end
    for tensor in tensors:
        place = batch - (len(shape) - len(tensor.shape))
        entries = tensor.shape[place] if place >= 0 else 1
        if entries != (1 if tensor.batch is None else shape[batch]):
            raise unfit
    return shape, Batch(batch, ahead)


def stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` without leading dimensions of 1, which broadcasting adds anyway."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
