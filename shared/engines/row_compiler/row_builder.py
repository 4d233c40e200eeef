"""Puts a row program together, step by step, and refuses what would mix rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.engines.row_compiler.known_values import BATCH, MOST_NUMBERS, Known
from shared.engines.row_compiler.row_program import (
    Input,
    Operand,
    Operator,
    Output,
    Packed,
    RowProgram,
    Step,
    stride_of,
)
from shared.errors import ProgramUnsupported

_MOST_STEPS = 500
_MOST_WIDTH = 2**16  # numbers in a row
# Whole numbers are floats here: exact where they are small, as places in a row and the starts of spaces are.
_LARGEST_NUMBER = 2**22
_KINDS = {
    "bool": "truth",
    **dict.fromkeys(("float16", "float32", "float64"), "float"),
    **dict.fromkeys(("int32", "int64"), "number"),
    **dict.fromkeys(("int8", "int16", "uint8", "uint16"), "narrow"),
}


@dataclass(frozen=True)
class Tensor:
    """What a step gives or takes: ``shape`` is without the batch's dimension, which ``batched`` says is there.

    ``kind`` is float, truth, other, or of whole numbers: number, which are small; observed, which come from outside and
    may be too large to be exact; narrow, whose sums would wrap around. ``below``: for whole numbers, where that is
    known, number ``i`` of each row is in [0, below[i]).
    """

    operand: Operand
    shape: tuple[int, ...]
    batched: bool
    kind: str = "float"
    below: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weight:
    """A float32 weight that no step has read yet."""

    name: str
    shape: tuple[int, ...]


Value = Tensor | Weight | Known | list[Tensor]


def kind_of(dtype: "np.dtype[np.generic]") -> str:
    """What numbers of ``dtype`` are here."""
    return _KINDS.get(str(dtype), "other")


def require_float(x: Tensor, what: str) -> None:
    """Raise ProgramUnsupported unless ``x`` holds floats."""
    if x.kind != "float":
        raise ProgramUnsupported(f"{what} of what are no floats")


class RowBuilder:
    """Each method that adds a step gives its result. All raise ProgramUnsupported."""

    def __init__(self) -> None:
        self._inputs: list[Input] = []
        self._steps: list[Step] = []
        self._packed: dict[tuple[str, bool, tuple[float, ...]], Packed] = {}
        self._floats = 0

    def program(self, outputs: Sequence[Output]) -> RowProgram:
        """What was put together."""
        return RowProgram(self._inputs, self._steps, outputs, tuple(self._packed.values()), self._floats)

    def input(self, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]) -> Tensor:
        """The next input. All of them come before the first step."""
        width = math.prod(shape)
        if kind_of(dtype) == "other" or dtype in (np.float64, np.float16) or width > _MOST_WIDTH:
            raise ProgramUnsupported(f"an input of {dtype} {shape}")
        self._inputs.append(Input(str(dtype), shape, width))
        kind = "observed" if kind_of(dtype) == "number" else kind_of(dtype)
        return Tensor(Operand(width, value=len(self._inputs) - 1), shape, batched=True, kind=kind)

    def tensor(self, value: Value | None) -> Tensor:
        """``value`` as what a step can read."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Weight):
            return Tensor(self._pack(value.name, (), 1, math.prod(value.shape)), value.shape, batched=False)
        if not isinstance(value, np.ndarray) or value.size > MOST_NUMBERS or (value == BATCH).any():
            raise ProgramUnsupported("an operand that is no tensor of floats")
        if value.dtype.kind in "iu" and ((value > _LARGEST_NUMBER) | (value < -_LARGEST_NUMBER)).any():
            raise ProgramUnsupported("whole numbers that are too large to be exact as floats")
        numbers = tuple(value.astype(np.float32).reshape(-1).tolist())
        return Tensor(self._pack("", numbers, 1, value.size), value.shape, batched=False, kind=kind_of(value.dtype))

    def step(self, operator: Operator, operands: Sequence[Operand], width: int, start: int = 0) -> Operand:
        """One more step."""
        if len(self._steps) >= _MOST_STEPS or not 0 < width <= _MOST_WIDTH:
            raise ProgramUnsupported(f"more than {_MOST_STEPS} steps, or {width} numbers in a row")
        self._steps.append(Step(operator, tuple(operands), width, start))
        return Operand(width, value=len(self._inputs) + len(self._steps) - 1)

    def unary(self, operator: Operator, x: Tensor) -> Tensor:
        """A step that keeps the shape."""
        require_float(x, operator)
        return replace(x, operand=self.step(operator, [x.operand], x.operand.width))

    def elementwise(self, operator: Operator, tensors: Sequence[Tensor]) -> Tensor:
        """A step number by number. Each operand has the shape of the result, or is one number."""
        batched = any(tensor.batched for tensor in tensors)
        shapes = [stripped(t.shape) if batched and not t.batched else t.shape for t in tensors]
        rank = max((len(shape) for shape, t in zip(shapes, tensors, strict=True) if t.batched == batched), default=0)
        mixes = any(len(s) > rank or (t.batched and len(s) != rank) for s, t in zip(shapes, tensors, strict=True))
        # Dimensions of 1 before the batch's own would move that.
        mixes = mixes or (batched and any(len(t.shape) > rank + 1 for t in tensors))
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            mixes, shape = True, ()
        width = math.prod(shape)
        if mixes or any(t.operand.width not in (1, width) for t in tensors):
            raise ProgramUnsupported(f"{operator} of operands of shapes {shapes}")
        return Tensor(self.step(operator, [t.operand for t in tensors], width), shape, batched)

    def linear(self, x: Value | None, weight: Value | None, bias: Value | None, *, transposed: bool) -> Tensor:
        """Rows times a weight [k, n], or [n, k] where ``transposed``, plus a bias [n]."""
        if not isinstance(x, Tensor) or not isinstance(weight, Weight) or not x.batched or len(weight.shape) != 2:
            raise ProgramUnsupported("a matrix product that is not of rows with a weight")
        require_float(x, "a matrix product")
        rows, columns = weight.shape[::-1] if transposed else weight.shape
        if x.shape != (rows,):
            raise ProgramUnsupported(f"a matrix product of {x.shape} with {weight.shape}")
        operands = [x.operand, self._pack(weight.name, (), rows, columns, transposed=transposed)]
        if bias is not None:
            tensor = self.tensor(bias)
            require_float(tensor, "a bias")
            if tensor.operand.packed < 0 or stripped(tensor.shape) != stripped((columns,)):
                raise ProgramUnsupported(f"a bias of shape {tensor.shape}, or one that is computed")
            operands.append(tensor.operand)
        return Tensor(self.step("linear", operands, columns), (columns,), batched=True)

    def part(self, x: Tensor, start: int, end: int) -> Tensor:
        """Numbers ``start`` to ``end`` of each row."""
        width = x.operand.width
        if not 0 <= start < end <= width:
            raise ProgramUnsupported(f"numbers {start} to {end} of {width}")
        if (start, end) == (0, width):
            return x
        operand = self.step("slice", [x.operand], end - start, start)
        return replace(x, operand=operand, shape=(end - start,), below=x.below[start:end])

    def of_last_axis(self, value: Value | None, axis: int) -> Tensor:
        """``value``, rows of one dimension each, where ``axis`` is that dimension."""
        x = self.tensor(value)
        if not x.batched or len(x.shape) != 1 or axis not in (-1, 1):
            raise ProgramUnsupported(f"an operator along axis {axis} of rows of shape {x.shape}")
        return x

    def _pack(
        self, name: str, numbers: tuple[float, ...], rows: int, columns: int, *, transposed: bool = False
    ) -> Operand:
        """A place among the packed weights, the same one for the same numbers."""
        key = (name, transposed, numbers)
        if key not in self._packed:
            stride = stride_of(columns)
            self._packed[key] = Packed(name, numbers, self._floats, rows, columns, stride, transposed)
            self._floats += rows * stride
        packed = self._packed[key]
        if (packed.rows, packed.columns) != (rows, columns):
            raise ProgramUnsupported(f"{name} as a matrix, and as a vector")
        return Operand(columns, packed=packed.place)


def stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without leading dimensions of 1, which broadcasting adds anyway."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
