"""Entry point of the compiler: a graph or a stack of linear layers becomes a program, and a program becomes calls."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shared.engines.row_compiler.emitter import LANES, VECTOR_BYTES
from shared.engines.row_compiler.graph_reader import read_graph
from shared.engines.row_compiler.row_builder import RowBuilder, Tensor, Weight
from shared.engines.row_compiler.row_code import (
    FUNCTION_NAME,
    MachineCode,
    Registers,
    blocks_and_singles,
    processor_registers,
    row_code,
)
from shared.engines.row_compiler.row_program import Output, RowProgram, plan_scratch, with_bounds
from shared.engines.row_compiler.views import View
from shared.errors import ProgramUnsupported
from shared.policy.output_bounds import Bounds

if TYPE_CHECKING:
    import onnx

Activation = Literal["relu", "sigmoid", "tanh"]
Slot = tuple[np.ndarray, np.dtype[Any], tuple[int, ...]]
"""Input array with its dtype and shape, which take as long to look up at each call as the array takes to write."""

_Part = tuple[str, np.ndarray | None, tuple[int, int], tuple[int, int], View]
"""Name or constants, place in the block, its padded shape, and the view of the weight."""

# Rows times weights of about fifty microseconds: far below what Python threads wait for each other, and about where
# 512-bit vectors begin to pay (see ``processor_registers``).
_BRIEF_WORK = 2_000_000
# A larger matrix leaves a core's own cache between rows; libraries for large matrices are faster then.
_MOST_IN_MATRIX = 2**17
# More than these take milliseconds for a row, which those libraries share among threads.
_MOST_FLOATS = 2**24
_MOST_WORK = 2**25


def read_program(model: "onnx.ModelProto") -> RowProgram:
    """Return the row program of an ONNX graph. Raises ProgramUnsupported when the graph cannot be compiled."""
    program = read_graph(model)
    _check_size(program)
    return program


def compile_program(program: RowProgram, bounds: Sequence[Bounds] = ()) -> "LlvmProgram":
    """Compile ``program``; its code checks ``bounds`` when there is one for each output. Raises ProgramUnsupported."""
    compiled = LlvmProgram(with_bounds(program, bounds))
    compiled.machine_code(is_brief=True)  # compiled now, so that an error of LLVM appears before the first call
    return compiled


def compile_layers(shapes: Sequence[tuple[int, int]], activation: Activation, *, keep: bool) -> "LlvmProgram":
    """Compile linear layers of ``shapes`` [(out, in), ...] with ``activation`` between them.

    The weights are ``i.weight`` [out, in] and ``i.bias`` [out]. With ``keep``, activations [rows, out] are outputs
    too, before the result. Raises ProgramUnsupported.
    """
    build = RowBuilder()
    x = build.input(np.dtype(np.float32), (shapes[0][1],))
    between: list[Tensor] = []
    for i, shape in enumerate(shapes):
        weight = Weight(f"{i}.weight", shape[0] * shape[1], View.of(shape))
        bias = Weight(f"{i}.bias", shape[0], View.of(shape[:1]))
        x = build.linear(x, weight, bias, transposed=True)
        if i < len(shapes) - 1:
            x = build.unary(activation, x)
            between += [x] if keep else []
    return LlvmProgram(build.program([Output(tensor.operand, "float32", tensor.shape[1:]) for tensor in (*between, x)]))


def _check_size(program: RowProgram) -> None:
    largest = max((part.floats for part in program.packed), default=0)
    if largest > _MOST_IN_MATRIX:
        raise ProgramUnsupported(f"a weight of {largest} numbers; at most {_MOST_IN_MATRIX} are compiled")
    if program.packed_floats > _MOST_FLOATS or program.work > _MOST_WORK:
        raise ProgramUnsupported(f"{program.packed_floats} weights, and {program.work} multiplications of a row")


class LlvmProgram:
    """Compiled row program without its weights."""

    def __init__(self, program: RowProgram) -> None:
        """Plan the program's memory. Raises ProgramUnsupported for a weight that is too large to compile."""
        _check_size(program)
        self.program = program
        self._scratch = plan_scratch(program)
        self.scratch_floats = self._scratch.numbers * LANES
        self._codes: dict[Registers, MachineCode] = {}

    def machine_code(self, *, is_brief: bool) -> MachineCode:
        """Return the code for brief or for long calls, compiled at the first use. Raises ProgramUnsupported."""
        registers = processor_registers(is_brief=is_brief)
        code = self._codes.get(registers)
        if code is None:
            code = MachineCode(row_code(self.program, self._scratch.places, registers), FUNCTION_NAME)
            self._codes[registers] = code
        return code

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the code and the layout of packed weights. Programs with equal digests can exchange blocks."""
        code = self.machine_code(is_brief=True)
        return hashlib.sha256(f"{code.digest}{self.program.packed}".encode()).hexdigest()

    def make_block(self) -> np.ndarray:
        """Return an aligned float32 array for the packed weights."""
        return _aligned(self.program.packed_floats)

    def pack(self, weights: Mapping[str, np.ndarray], block: np.ndarray) -> None:
        """Write ``weights`` (float32, by name) into ``block`` in the layout that the code reads."""
        for name, constants, (begin, end), padded, shown in self._layout:
            numbers = constants if constants is not None else weights[name]
            block[begin:end].reshape(padded)[:, : shown.shape[1]] = _matrix(numbers, shown)

    @functools.cached_property
    def _layout(self) -> Sequence[_Part]:
        """The packed matrices, in the terms of numpy."""
        return [
            (
                part.name,
                None if part.name else np.array(part.numbers, np.float32),
                (part.place, part.place + part.floats),
                (part.view.shape[0], part.stride),
                part.view,
            )
            for part in self.program.packed
        ]


def _matrix(numbers: np.ndarray, view: View) -> np.ndarray:
    """Return what ``view`` shows of contiguous ``numbers``."""
    if numbers.shape == view.shape and not view.start and view.strides == (view.shape[1], 1):
        return numbers
    if numbers.size == view.shape[1] and view.shape[0] == 1 and not view.start:
        return numbers.reshape(view.shape)
    if numbers.shape == view.shape[::-1] and not view.start and view.strides == (1, view.shape[0]):
        return numbers.T
    strides = [4 * stride for stride in view.strides]
    # numpy checks that the view is within the array.
    return np.ndarray(view.shape, np.float32, np.ascontiguousarray(numbers), 4 * view.start, strides)


class RowCall:
    """Arrays for up to ``room`` rows and the table that the code reads. Not safe for concurrent use.

    Write ``inputs``, call ``run(table)``, which returns 1 when all outputs are within bounds, and read ``outputs``.
    """

    def __init__(self, compiled: LlvmProgram, block: np.ndarray, room: int) -> None:
        """Allocate the arrays. Each call reads the weights in ``block``. Raises ProgramUnsupported."""
        program = compiled.program
        blocks, singles = blocks_and_singles(room)
        rows = blocks * LANES + singles
        self._inputs = [np.zeros((rows, *source.shape), source.dtype) for source in program.inputs]
        self._outputs = [np.zeros((rows, *output.shape), output.dtype) for output in program.outputs]
        arrays = (block, _aligned(compiled.scratch_floats), *self._inputs, *self._outputs)
        self._kept = arrays
        self._words = np.array([blocks, singles, *(_address(array) for array in arrays)], np.int64)
        is_brief = room * program.work <= _BRIEF_WORK
        self._code = compiled.machine_code(is_brief=is_brief)
        self.room = room
        self.run = self._code.brief_call if is_brief else self._code.call
        self.table = _address(self._words)
        self._lay_out(room)

    def use(self, rows: int) -> None:
        """Set the number of rows of the next calls. Raises ValueError for more than ``room``."""
        if rows > self.room:
            raise ValueError(f"expected at most {self.room} rows, found {rows}")
        self._words[:2] = blocks_and_singles(rows)
        self._lay_out(rows)

    def _lay_out(self, rows: int) -> None:
        self.inputs = [array[:rows] for array in self._inputs]
        self.outputs = [array[:rows] for array in self._outputs]
        self.slots: list[Slot] = [(array, array.dtype, array.shape) for array in self.inputs]


def _aligned(floats: int) -> np.ndarray:
    """Return zeros at an address that is a multiple of ``VECTOR_BYTES``."""
    memory = np.zeros(4 * floats + VECTOR_BYTES, np.uint8)
    start = -_address(memory) % VECTOR_BYTES
    return memory[start : start + 4 * floats].view(np.float32)


def _address(array: np.ndarray) -> int:
    address: int = array.ctypes.data
    return address
