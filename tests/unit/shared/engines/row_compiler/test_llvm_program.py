"""Calls stay within the memory of their room, and compiled bounds cover every number of every row."""

import itertools

import numpy as np
import pytest

from shared.engines.row_compiler.emitter import LANES
from shared.engines.row_compiler.llvm_program import LlvmProgram, RowCall
from shared.engines.row_compiler.row_builder import RowBuilder
from shared.engines.row_compiler.row_code import blocks_and_singles
from shared.engines.row_compiler.row_program import Output, RowProgram, with_bounds
from shared.policy.output_bounds import Bounds

_WIDTH = 19
_LARGEST = float(np.finfo(np.float32).max)
_NARROW = Bounds((_WIDTH,), (-1.0,), (2.0,))
_FINITE = Bounds((), (-_LARGEST,), (_LARGEST,))


def _touched(rows: int) -> int:
    blocks, singles = blocks_and_singles(rows)
    return blocks * LANES + singles


def test_fewer_rows_never_touch_more_memory() -> None:
    for fewer, more in itertools.pairwise(range(200)):
        assert fewer <= _touched(fewer) <= _touched(more)


def test_a_call_takes_no_more_rows_than_it_has_room_for() -> None:
    build = RowBuilder()
    x = build.unary("neg", build.input(np.dtype(np.float32), (3,)))
    compiled = LlvmProgram(build.program([Output(x.operand, "float32", (3,))]))
    call = RowCall(compiled, compiled.make_block(), 20)
    for rows in (20, 7, 0, 5):
        call.use(rows)
        call.inputs[0][...] = np.arange(3 * rows).reshape(rows, 3)
        call.run(call.table)
        np.testing.assert_array_equal(call.outputs[0], -np.arange(3 * rows, dtype=np.float32).reshape(rows, 3))
    with pytest.raises(ValueError, match="at most 20 rows, found 21"):
        call.use(21)


def _program() -> RowProgram:
    """Return a program that returns its two inputs, of many numbers and of one."""
    build = RowBuilder()
    many, one = (build.input(np.dtype(np.float32), shape) for shape in ((_WIDTH,), ()))
    return build.program([Output(many.operand, "float32", (_WIDTH,)), Output(one.operand, "float32", ())])


def _call(rows: int, *bounds: Bounds) -> RowCall:
    compiled = LlvmProgram(with_bounds(_program(), bounds))
    block = compiled.make_block()
    compiled.pack({}, block)
    return RowCall(compiled, block, rows)


@pytest.mark.parametrize("rows", [1, 5, 6, 16, 22, 33])
def test_every_number_of_every_row_counts(rows: int) -> None:
    call = _call(rows, _NARROW, _FINITE)
    many, one = call.inputs
    for outside in (2.1, -1.1, np.nan, np.inf, -np.inf):
        for place in np.ndindex(many.shape):
            many[place] = outside
            assert call.run(call.table) == 0
            many[place] = 0.0
    for outside in (np.nan, np.inf, -np.inf):
        for row in range(rows):
            one[row] = outside
            assert call.run(call.table) == 0
            one[row] = 0.0
    assert call.run(call.table) == 1


@pytest.mark.parametrize("rows", [1, 16, 22])
def test_the_bounds_are_inside(rows: int) -> None:
    call = _call(rows, _NARROW, _FINITE)
    for low, high in ((-1.0, -_LARGEST), (2.0, _LARGEST)):
        call.inputs[0][...], call.inputs[1][...] = low, high
        assert call.run(call.table) == 1
        assert (call.outputs[0] == low).all()


@pytest.mark.parametrize("rows", [1, 16])
def test_each_number_of_a_row_may_have_its_own_bounds(rows: int) -> None:
    low, high = (tuple(np.arange(_WIDTH) + end) for end in (-0.5, 0.5))
    call = _call(rows, Bounds((_WIDTH,), low, high), _FINITE)
    call.inputs[0][...] = np.arange(_WIDTH)
    assert call.run(call.table) == 1
    call.inputs[0][-1] = np.roll(np.arange(_WIDTH), 1)
    assert call.run(call.table) == 0


@pytest.mark.parametrize("bounds", [(), (_NARROW,), (_FINITE, _NARROW), (_NARROW, _FINITE, _FINITE)])
def test_bounds_of_other_outputs_are_not_checked(bounds: tuple[Bounds, ...]) -> None:
    call = _call(3, *bounds)
    assert call.run(call.table) == 0


def test_outputs_stay_as_they_are() -> None:
    checked, plain = _call(22, _NARROW, _FINITE), _call(22)
    for call in (checked, plain):
        for array in call.inputs:
            array[...] = np.random.default_rng(0).standard_normal(array.shape)
        call.run(call.table)
    for found, expected in zip(checked.outputs, plain.outputs, strict=True):
        np.testing.assert_array_equal(found, expected)
