"""Calls for fewer rows than their room stay within the allocated memory."""

import itertools

import numpy as np
import pytest

from shared.engines.row_compiler.emitter import LANES
from shared.engines.row_compiler.llvm_program import LlvmProgram, RowCall
from shared.engines.row_compiler.row_builder import RowBuilder
from shared.engines.row_compiler.row_code import blocks_and_singles
from shared.engines.row_compiler.row_program import Output


def _touched(rows: int) -> int:
    blocks, singles = blocks_and_singles(rows)
    return blocks * LANES + singles


def test_fewer_rows_never_touch_more_memory() -> None:
    for fewer, more in itertools.pairwise(range(200)):
        assert fewer <= _touched(fewer) <= _touched(more)


def test_a_call_takes_no_more_rows_than_it_has_room_for() -> None:
    build = RowBuilder()
    x = build.unary("neg", build.input(np.dtype(np.float32), (3,)))
    compiled = LlvmProgram(build.program([Output(x.operand, "float32", x.shape)]))
    call = RowCall(compiled, compiled.make_block(), 20)
    for rows in (20, 7, 0, 5):
        call.use(rows)
        call.inputs[0][...] = np.arange(3 * rows).reshape(rows, 3)
        call.run(call.table)
        np.testing.assert_array_equal(call.outputs[0], -np.arange(3 * rows, dtype=np.float32).reshape(rows, 3))
    with pytest.raises(ValueError, match="at most 20 rows, found 21"):
        call.use(21)
