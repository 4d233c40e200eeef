"""A row program as machine code, and what it needs to run: packed weights, and arrays to read and write."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.engines.row_compiler.emitter import LANES, VECTOR_BYTES
from shared.engines.row_compiler.machine_code import MachineCode, processor_registers
from shared.engines.row_compiler.registers import Registers
from shared.engines.row_compiler.row_code import FUNCTION_NAME, blocks_and_singles, row_code
from shared.engines.row_compiler.row_program import Packed, RowProgram
from shared.engines.row_compiler.scratch import plan_scratch
from shared.errors import ProgramUnsupported

Slot = tuple[np.ndarray, np.dtype[Any], tuple[int, ...]]
"""An array to write an input to, its dtype and its shape: asked for at each call, they take as long as the writing."""

# Rows times weights: up to about fifty microseconds. That is far below what threads of Python wait for each other
# anyway, and about where longer vectors begin to be worth what they cost (see ``processor_registers``).
_BRIEF_WORK = 2_000_000
# A larger matrix does not stay in a core's own cache from row to row; libraries for large ones go about these better.
_MOST_IN_MATRIX = 2**17


def check_size(program: RowProgram) -> None:
    """Raise ProgramUnsupported for a program that is better run by something else."""
    largest = max((part.rows * part.stride for part in program.packed), default=0)
    if largest > _MOST_IN_MATRIX:
        raise ProgramUnsupported(f"a weight of {largest} numbers; at most {_MOST_IN_MATRIX} are compiled")


class LlvmProgram:
    """What does not depend on the weights."""

    def __init__(self, program: RowProgram) -> None:
        """Raises ProgramUnsupported."""
        check_size(program)
        self.program = program
        self._scratch = plan_scratch(program)
        self.scratch_floats = self._scratch.numbers * LANES
        self._codes: dict[Registers, MachineCode] = {}

    def machine_code(self, *, is_brief: bool) -> MachineCode:
        """The code for calls that are brief, or for others; compiled when it is first asked for.

        Raises ProgramUnsupported.
        """
        registers = processor_registers(is_brief=is_brief)
        code = self._codes.get(registers)
        if code is None:
            code = MachineCode(row_code(self.program, self._scratch.places, registers), FUNCTION_NAME)
            self._codes[registers] = code
        return code

    @functools.cached_property
    def digest(self) -> str:
        """Of the code, and of how weights are packed: where it is the same, so are blocks."""
        code = self.machine_code(is_brief=True)  # there already, as a rule
        return hashlib.sha256(f"{code.digest}{self.program.packed}".encode()).hexdigest()

    def make_block(self) -> np.ndarray:
        """Room for the packed weights."""
        return _aligned(self.program.packed_floats)

    def pack(self, weights: Mapping[str, np.ndarray], block: np.ndarray) -> None:
        """Write ``weights`` (float32, by their names in the program) into ``block``, as the code reads them."""
        for part in self.program.packed:
            _pack(block, part, weights)


class RowCall:
    """Arrays for up to ``room`` rows, and the table that tells the code where they are. Not for two threads at a time.

    To call it: write ``inputs`` (``slots`` has them with their dtypes and shapes), then ``run(table)``, then read
    ``outputs``. It returns what the code does: 1 where all outputs were found to be within their bounds, else 0.
    """

    def __init__(self, compiled: LlvmProgram, block: np.ndarray, room: int) -> None:
        """``block`` is read at every call, and kept. Raises ProgramUnsupported."""
        program = compiled.program
        blocks, singles = blocks_and_singles(room)
        rows = blocks * LANES + singles
        self._inputs = [np.zeros((rows, *source.shape), source.dtype) for source in program.inputs]
        self._outputs = [np.zeros((rows, *output.shape), output.dtype) for output in program.outputs]
        arrays = (block, _aligned(compiled.scratch_floats), *self._inputs, *self._outputs)
        self._kept = arrays
        self._words = np.array([blocks, singles, *(_address(array) for array in arrays)], np.int64)
        is_brief = room * program.packed_floats <= _BRIEF_WORK
        self._code = compiled.machine_code(is_brief=is_brief)
        self.room = room
        self.run = self._code.brief_call if is_brief else self._code.call
        self.table = _address(self._words)
        self._lay_out(room)

    def use(self, rows: int) -> None:
        """From now on calls are for ``rows`` rows, which is no more than there is room for."""
        if rows > self.room:
            raise ValueError(f"expected at most {self.room} rows, found {rows}")
        self._words[:2] = blocks_and_singles(rows)
        self._lay_out(rows)

    def _lay_out(self, rows: int) -> None:
        self.inputs = [array[:rows] for array in self._inputs]
        self.outputs = [array[:rows] for array in self._outputs]
        self.slots: list[Slot] = [(array, array.dtype, array.shape) for array in self.inputs]


def _pack(block: np.ndarray, part: Packed, weights: Mapping[str, np.ndarray]) -> None:
    numbers = weights[part.name] if part.name else np.array(part.numbers, np.float32)
    matrix = numbers.T if part.transposed else numbers.reshape(part.rows, part.columns)
    place = block[part.place : part.place + part.rows * part.stride].reshape(part.rows, part.stride)
    place[:, : part.columns] = matrix


def _aligned(floats: int) -> np.ndarray:
    """Zeros that begin at a multiple of ``VECTOR_BYTES``."""
    memory = np.zeros(4 * floats + VECTOR_BYTES, np.uint8)
    start = -_address(memory) % VECTOR_BYTES
    return memory[start : start + 4 * floats].view(np.float32)


def _address(array: np.ndarray) -> int:
    address: int = array.ctypes.data
    return address
