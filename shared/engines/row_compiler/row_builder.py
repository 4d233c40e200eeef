"""Construction of a row program step by step. Steps that would mix rows are refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.engines.row_compiler.constant_folding import BATCH, MOST_NUMBERS, Constant
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
# Integers are stored as float32, which is exact for small ones such as indices and the starts of spaces.
_LARGEST_NUMBER = 2**22
KINDS = {
    "bool": "truth",
    **dict.fromkeys(("float16", "float32", "float64"), "float"),
    **dict.fromkeys(("int32", "int64"), "number"),
    **dict.fromkeys(("int8", "int16", "uint8", "uint16"), "narrow"),
}


@dataclass(frozen=True)
class Tensor:
    """Operand or result of a step. ``shape`` excludes the batch dimension, which exists when ``batched`` is true.

    ``kind`` is float, truth (bool), other, or one of three kinds of integers: number (small), observed (from an input,
    possibly too large to be exact), narrow (8 or 16 bits, whose sums would wrap around). When ``below`` is not empty,
    number ``i`` of each row is an integer in [0, below[i]).
    """

    operand: Operand
    shape: tuple[int, ...]
    batched: bool
    kind: str = "float"
    below: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weight:
    """Float32 weight that no step has read yet."""

    name: str
    shape: tuple[int, ...]


Value = Tensor | Weight | Constant | list[Tensor]


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
        self._packed: dict[tuple[str, bool, tuple[float, ...]], Packed] = {}
        self._floats = 0

    def program(self, outputs: Sequence[Output]) -> RowProgram:
        """Return the program with these outputs."""
        return RowProgram(self._inputs, self._steps, outputs, tuple(self._packed.values()), self._floats)

    def input(self, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]) -> Tensor:
        """Add the next input ``[rows, *shape]``. All inputs come before the first step."""
        width = math.prod(shape)
        if kind_of(dtype) == "other" or dtype in (np.float64, np.float16) or width > _MOST_WIDTH:
            raise ProgramUnsupported(f"an input of {dtype} {shape}")
        self._inputs.append(Input(str(dtype), shape, width))
        kind = "observed" if kind_of(dtype) == "number" else kind_of(dtype)
        return Tensor(Operand(width, value=len(self._inputs) - 1), shape, batched=True, kind=kind)

    def tensor(self, value: Value | None) -> Tensor:
        """Return ``value`` as a tensor that a step can read."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Weight):
            return Tensor(self._pack(value.name, (), 1, math.prod(value.shape)), value.shape, batched=False)
        if not isinstance(value, np.ndarray) or value.size > MOST_NUMBERS or (value == BATCH).any():
            raise ProgramUnsupported("an operand that is not a tensor")
        if value.dtype.kind in "iu" and ((value > _LARGEST_NUMBER) | (value < -_LARGEST_NUMBER)).any():
            raise ProgramUnsupported("integers that are too large for float32")
        numbers = tuple(value.astype(np.float32).reshape(-1).tolist())
        return Tensor(self._pack("", numbers, 1, value.size), value.shape, batched=False, kind=kind_of(value.dtype))

    def step(self, operator: Operator, operands: Sequence[Operand], width: int, start: int = 0) -> Operand:
        """Add a step and return its result."""
        if len(self._steps) >= _MOST_STEPS or not 0 < width <= _MOST_WIDTH:
            raise ProgramUnsupported(f"more than {_MOST_STEPS} steps, or {width} numbers in a row")
        self._steps.append(Step(operator, tuple(operands), width, start))
        return Operand(width, value=len(self._inputs) + len(self._steps) - 1)

    def unary(self, operator: Operator, x: Tensor) -> Tensor:
        """Add a step on floats that keeps the shape."""
        require_float(x, operator)
        return replace(x, operand=self.step(operator, [x.operand], x.operand.width))

    def elementwise(self, operator: Operator, tensors: Sequence[Tensor]) -> Tensor:
        """Add an elementwise step. Each operand has the shape of the result or is one number."""
        batched = any(tensor.batched for tensor in tensors)
        shapes = [stripped(t.shape) if batched and not t.batched else t.shape for t in tensors]
        rank = max((len(shape) for shape, t in zip(shapes, tensors, strict=True) if t.batched == batched), default=0)
        mixes = any(len(s) > rank or (t.batched and len(s) != rank) for s, t in zip(shapes, tensors, strict=True))
        # Dimensions of 1 before the batch dimension would move it.
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
        """Multiply rows by a weight [k, n], or [n, k] when ``transposed``, and add a bias [n]."""
        if not isinstance(x, Tensor) or not isinstance(weight, Weight) or not x.batched or len(weight.shape) != 2:
            raise ProgramUnsupported("a matrix product other than rows times a weight")
        require_float(x, "a matrix product")
        rows, columns = weight.shape[::-1] if transposed else weight.shape
        if x.shape != (rows,):
            raise ProgramUnsupported(f"a matrix product of {x.shape} with {weight.shape}")
        operands = [x.operand, self._pack(weight.name, (), rows, columns, transposed=transposed)]
        if bias is not None:
            tensor = self.tensor(bias)
            require_float(tensor, "a bias")
            if tensor.operand.packed < 0 or stripped(tensor.shape) != stripped((columns,)):
                raise ProgramUnsupported(f"a bias of shape {tensor.shape}, or a computed bias")
            operands.append(tensor.operand)
        return Tensor(self.step("linear", operands, columns), (columns,), batched=True)

    def slice(self, x: Tensor, start: int, end: int) -> Tensor:
        """Take numbers ``start`` to ``end - 1`` of each row."""
        width = x.operand.width
        if not 0 <= start < end <= width:
            raise ProgramUnsupported(f"numbers {start} to {end} of {width}")
        if (start, end) == (0, width):
            return x
        operand = self.step("slice", [x.operand], end - start, start)
        return replace(x, operand=operand, shape=(end - start,), below=x.below[start:end])

    def row_vectors(self, value: Value | None, axis: int) -> Tensor:
        """Return ``value`` when it is [rows, width] and ``axis`` is its last axis."""
        x = self.tensor(value)
        if not x.batched or len(x.shape) != 1 or axis not in (-1, 1):
            raise ProgramUnsupported(f"an operator along axis {axis} of rows of shape {x.shape}")
        return x

    def _pack(
        self, name: str, numbers: tuple[float, ...], rows: int, columns: int, *, transposed: bool = False
    ) -> Operand:
        """Return the place of these numbers in the packed weights; equal numbers share one place."""
        key = (name, transposed, numbers)
        if key not in self._packed:
            stride = stride_of(columns)
            self._packed[key] = Packed(name, numbers, self._floats, rows, columns, stride, transposed)
            self._floats += rows * stride
        packed = self._packed[key]
        if (packed.rows, packed.columns) != (rows, columns):
            raise ProgramUnsupported(f"{name} is used both as a matrix and as a vector")
        return Operand(columns, packed=packed.place)


def stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` without leading dimensions of 1, which broadcasting adds anyway."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
