"""From a program for one row to a function in LLVM's language that runs it for all rows of a batch.

Rows are taken sixteen at a time, one in each lane of a vector, and a few that are left one by one, then with the
numbers of the row in the lanes. A value lies in scratch memory: of sixteen rows number by number, each for all rows; of
one row as it comes. Hence most steps are written once for both.

The function takes one pointer, to a table of 64-bit words: how many blocks of sixteen rows; how many single rows after
them; where the packed weights are; where the scratch memory is; then where each input and output is. Weights and
scratch begin at a multiple of 64 bytes. It returns 1 where all outputs were found to be within their bounds, else 0.
"""

from collections.abc import Mapping

from llvmlite import ir

from shared.engines.row_compiler.block_rows import BlockRows
from shared.engines.row_compiler.emitter import INT64, LANES, POINTER, Emitter
from shared.engines.row_compiler.registers import Registers
from shared.engines.row_compiler.row_program import RowProgram
from shared.engines.row_compiler.single_row import SingleRow
from shared.engines.row_compiler.vector_math import INT32

FUNCTION_NAME = "run"

# Vectors that are longer are split up, even where the processor has registers for them.
_WIDTH = '"min-legal-vector-width"="0" "prefer-vector-width"="{}"'
# From so many rows on, a block that is not full costs less than one row after the other.
_LEAST_IN_BLOCK = 6


def blocks_and_singles(rows: int) -> tuple[int, int]:
    """How many blocks, of which the last may not be full, and how many rows after them."""
    blocks, left = divmod(rows, LANES)
    return (blocks + 1, 0) if left >= _LEAST_IN_BLOCK else (blocks, left)


class _Attributes(ir.values.FunctionAttributes):  # type: ignore[misc]
    """What llvmlite does not know by name is written out as it stands."""

    _known = frozenset(_WIDTH.format(bits) for bits in (256, 512))


def row_code(program: RowProgram, places: Mapping[int, int], registers: Registers) -> str:
    """The function in LLVM's assembly language. ``places``: where values lie in scratch memory.

    ``registers``: those of the processor that it may use. They change no bit of the results.
    """
    module = ir.Module(FUNCTION_NAME)
    function = ir.Function(module, ir.FunctionType(INT32, [POINTER]), FUNCTION_NAME)
    function.attributes = _Attributes(_WIDTH.format(registers.bits))
    code = Emitter(ir.IRBuilder(function.append_basic_block()), function.args[0])
    b, sums = code.builder, registers.sums_at_once
    in_blocks = b.mul(code.blocks, INT64(LANES))
    code.each(code.blocks, lambda i: BlockRows(program, places, code, b.mul(i, INT64(LANES)), sums).emit())
    code.each(code.singles, lambda i: SingleRow(program, places, code, b.add(in_blocks, i)).emit())
    is_checked = any(output.low is not None for output in program.outputs)
    b.ret(code.all_kept() if is_checked else INT32(0))
    return str(module)
