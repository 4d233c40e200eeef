"""LLVM assembly of a row program: one function that runs it for all rows of a batch.

The function takes one pointer to a table of 64-bit words: the number of blocks of sixteen rows, the number of single
rows after them, the address of the packed weights, the address of the scratch memory, then the address of each input
and each output. Weights and scratch memory are aligned to 64 bytes. The function returns 1 when all outputs are within
their bounds, else 0.
"""

from collections.abc import Mapping

from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, LANES, POINTER, Emitter
from shared.engines.row_compiler.machine_code import Registers
from shared.engines.row_compiler.row_layouts import BlockRows, SingleRow
from shared.engines.row_compiler.row_program import RowProgram
from shared.engines.row_compiler.vector_math import INT32

FUNCTION_NAME = "run"

# LLVM splits longer vectors, even when the processor has registers for them.
_WIDTH = '"min-legal-vector-width"="0" "prefer-vector-width"="{}"'
# From this many rows on, a partly filled block costs less than single rows.
_LEAST_IN_BLOCK = 6
_SINGLE_ROW_SUMS = 4


def blocks_and_singles(rows: int) -> tuple[int, int]:
    """Return the number of blocks, the last of which may be partly filled, and of single rows after them."""
    blocks, left = divmod(rows, LANES)
    return (blocks + 1, 0) if left >= _LEAST_IN_BLOCK else (blocks, left)


class _Attributes(ir.values.FunctionAttributes):  # type: ignore[misc]
    """Attributes that llvmlite does not know by name and writes as they are."""

    _known = frozenset(_WIDTH.format(bits) for bits in (256, 512))


def row_code(program: RowProgram, places: Mapping[int, int], registers: Registers) -> str:
    """Return the function in LLVM assembly. ``places`` are the values' offsets in scratch memory.

    The choice of ``registers`` changes no bit of the results.
    """
    module = ir.Module(FUNCTION_NAME)
    function = ir.Function(module, ir.FunctionType(INT32, [POINTER]), FUNCTION_NAME)
    function.attributes = _Attributes(_WIDTH.format(registers.bits))
    code = Emitter(ir.IRBuilder(function.append_basic_block()), function.args[0])
    b, sums = code.builder, registers.sums_at_once
    in_blocks = b.mul(code.blocks, INT64(LANES))
    code.loop(code.blocks, lambda i: BlockRows(program, places, code, b.mul(i, INT64(LANES)), sums).emit())
    code.loop(code.singles, lambda i: SingleRow(program, places, code, b.add(in_blocks, i), _SINGLE_ROW_SUMS).emit())
    is_checked = any(output.low is not None for output in program.outputs)
    b.ret(code.all_met() if is_checked else INT32(0))
    return str(module)
