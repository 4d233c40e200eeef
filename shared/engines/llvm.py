"""Runs an ONNX graph that LLVM compiled for this processor: one function for all rows, with the weights in one block.

It knows fewer operators than ONNX Runtime, and no more than rows of vectors, which is what most policies are. There its
calls cost a fraction: nothing is looked up, dispatched or allocated between the first operator and the last. New
weights are copied into a block of their own. Imports neither torch nor onnxruntime.
"""

import copy
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs
from shared.errors import PolicyOutputError, ProgramUnsupported
from shared.program_digest import onnx_program_digest
from shared.row_compiler.emitter import LANES
from shared.row_compiler.graph_reader import read_graph
from shared.row_compiler.machine_code import MachineCode, has_avx512
from shared.row_compiler.row_code import FUNCTION_NAME, blocks_and_singles, row_code
from shared.row_compiler.row_program import Packed, RowProgram
from shared.weights import check_finite, check_layout

_MOST_CALLS = 8  # batch sizes in use at once: an actor has one, a pool of them a few
_ALIGN_BYTES = 64
# A larger matrix does not stay in a core's own cache from row to row; ONNX Runtime goes about these better.
_MOST_IN_MATRIX = 2**17


class LlvmEngine:
    """One compiled program with one block of weights. Inputs and outputs go by position."""

    kind: EngineKind = "llvm"

    def __init__(
        self, graph: bytes, weights: Mapping[str, np.ndarray], *, outputs: Sequence[int] | None = None
    ) -> None:
        """Raises ProgramUnsupported for a graph that is not of this engine, ProgramError for what is no graph of ours,
        WeightsError where ``weights`` lack an initializer, or have another shape or dtype than it.

        What ``outputs`` do not need is not computed.
        """
        self.program_digest = onnx_program_digest(graph)
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        self._compiled = _compile(graph, None if outputs is None else tuple(outputs))
        self.load_weights(weights)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See Engine."""
        check_layout(self._layout, weights)
        check_finite(weights)
        self._packed = self._compiled.pack(weights)
        self._calls: dict[int, _Call] = {}

    def twin(self) -> "LlvmEngine":
        """See Engine. Whatever depends on weights, ``load_weights`` makes anew."""
        return copy.copy(self)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError for inputs of another dtype or shape than the graph's."""
        try:
            rows = inputs[0].shape[0]
            call = self._calls.get(rows) or self._prepare(rows)
            for buffer, array in zip(call.inputs, inputs, strict=True):
                if array.dtype != buffer.dtype or array.shape != buffer.shape:  # numpy would broadcast
                    found = f"{array.dtype} {array.shape}"
                    raise TypeError(f"expected {buffer.dtype} {buffer.shape}, found {found}")
                buffer[...] = array
        except (IndexError, TypeError, ValueError) as error:
            raise PolicyOutputError(f"inputs that do not fit the program: {error}") from error
        call.run(call.table)
        return [buffer.copy() for buffer in call.outputs]

    def _prepare(self, rows: int) -> "_Call":
        if len(self._calls) >= _MOST_CALLS:
            self._calls.clear()
        self._calls[rows] = _Call(self._compiled, self._packed, rows)
        return self._calls[rows]


class CompiledProgram:
    """What does not depend on the weights; engines of the same program share it."""

    def __init__(self, program: RowProgram) -> None:
        """Raises ProgramUnsupported."""
        self.program = program
        code = row_code(program, has_32_registers=has_avx512())
        self.scratch_floats = code.scratch_floats
        self.machine_code = MachineCode(code.text, FUNCTION_NAME)

    def pack(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The block that the code reads."""
        block = _aligned(self.program.packed_floats)
        for part in self.program.packed:
            _pack(block, part, weights)
        return block


class _Call:
    """The arrays that one engine reads and writes at one batch size, and the table that says where they are."""

    def __init__(self, compiled: CompiledProgram, packed: np.ndarray, rows: int) -> None:
        program = compiled.program
        blocks, singles = blocks_and_singles(rows)
        room = blocks * LANES + singles
        inputs = [np.zeros((room, *source.shape), source.dtype) for source in program.inputs]
        outputs = [np.zeros((room, *output.shape), output.dtype) for output in program.outputs]
        arrays = (packed, _aligned(compiled.scratch_floats), *inputs, *outputs)
        words = np.array([blocks, singles, *(_address(array) for array in arrays)], np.int64)
        self._kept = (arrays, words)
        self.inputs = [array[:rows] for array in inputs]
        self.outputs = [array[:rows] for array in outputs]
        self.run = compiled.machine_code.call
        self.table = _address(words)


def read_row_program(graph: bytes, outputs: Sequence[int] | None = None) -> RowProgram:
    """``graph`` as this engine understands it. Runs and compiles nothing. Raises ProgramUnsupported, ProgramError."""
    import onnx

    external_initializers(graph)  # raises ProgramError for what is no graph
    kept = graph if outputs is None else keep_outputs(graph, tuple(outputs))
    program = read_graph(onnx.load_model_from_string(kept))
    largest = max((part.rows * part.stride for part in program.packed), default=0)
    if largest > _MOST_IN_MATRIX:
        raise ProgramUnsupported(f"a weight of {largest} numbers; at most {_MOST_IN_MATRIX} are compiled")
    return program


@functools.lru_cache(maxsize=4)
def _compile(graph: bytes, outputs: tuple[int, ...] | None) -> CompiledProgram:
    return CompiledProgram(read_row_program(graph, outputs))


def _pack(block: np.ndarray, part: Packed, weights: Mapping[str, np.ndarray]) -> None:
    numbers = weights[part.name] if part.name else np.array(part.numbers, np.float32)
    matrix = numbers.T if part.transposed else numbers.reshape(part.rows, part.columns)
    place = block[part.place : part.place + part.rows * part.stride].reshape(part.rows, part.stride)
    place[:, : part.columns] = matrix


def _aligned(floats: int) -> np.ndarray:
    """Zeros that begin at a multiple of ``_ALIGN_BYTES``."""
    memory = np.zeros(4 * floats + _ALIGN_BYTES, np.uint8)
    start = -_address(memory) % _ALIGN_BYTES
    return memory[start : start + 4 * floats].view(np.float32)


def _address(array: np.ndarray) -> int:
    address: int = array.ctypes.data
    return address
