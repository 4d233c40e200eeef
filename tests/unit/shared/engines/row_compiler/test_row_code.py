"""Code for each kind of registers gives the same bits and uses no longer vectors than allowed."""

import math

import llvmlite.binding as llvm
import numpy as np
import pytest

from shared.engines.row_compiler import llvm_program
from shared.engines.row_compiler.llvm_program import LlvmProgram, RowCall
from shared.engines.row_compiler.row_builder import RowBuilder, Weight
from shared.engines.row_compiler.row_code import (
    FUNCTION_NAME,
    MachineCode,
    Registers,
    _target_machine,
    processor_registers,
    row_code,
)
from shared.engines.row_compiler.row_program import Groups, Output, RowProgram, Step, plan_scratch
from shared.engines.row_compiler.views import View

_KINDS = [Registers(16, 256), Registers(32, 256), Registers(32, 512)]
_SHAPES = {"w": (37, 75), "b": (75,)}
_HAS_LONG = processor_registers(is_brief=False).bits == 512


def _program() -> RowProgram:
    """Return tanh and argmax of a layer of 75 numbers, which no kind of registers divides evenly."""
    build = RowBuilder()
    x = build.input(np.dtype(np.float32), (37,))
    weight, bias = (Weight(name, math.prod(shape), View.of(shape)) for name, shape in _SHAPES.items())
    layer = build.unary("tanh", build.linear(x, weight, bias, transposed=False))
    scores = build.step(Step("log_softmax", (layer.operand,), 75, Groups(1, 75)))
    best = build.step(Step("argmax", (scores,), 1, Groups(1, 75)))
    return build.program([Output(scores, "float32", (75,)), Output(best, "int64", ())])


def _text(registers: Registers) -> str:
    program = _program()
    return row_code(program, plan_scratch(program).places, registers)


@pytest.mark.parametrize("rows", [1, 5, 16, 35])
def test_has_the_same_bits_whatever_registers_it_uses(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in _SHAPES.items()}
    x = generator.standard_normal((rows, 37)).astype(np.float32)
    found = []
    for registers in _KINDS:
        monkeypatch.setattr(llvm_program, "processor_registers", lambda *, is_brief, kind=registers: kind)
        compiled = LlvmProgram(_program())
        block = compiled.make_block()
        compiled.pack(weights, block)
        call = RowCall(compiled, block, rows)
        call.inputs[0][...] = x
        call.run(call.table)
        found.append([output.tobytes() for output in call.outputs])
    assert found[0] == found[1] == found[2]
    layer = np.tanh(x @ weights["w"] + weights["b"])
    expected = layer - np.log(np.exp(layer).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(call.outputs[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(call.outputs[1], call.outputs[0].argmax(axis=1))


@pytest.mark.skipif(not _HAS_LONG, reason="this processor has no vectors of 512 bits")
def test_only_code_for_long_calls_has_the_longest_vectors() -> None:
    for is_brief in (True, False):
        text = _text(processor_registers(is_brief=is_brief))
        assembly = _target_machine().emit_assembly(llvm.parse_assembly(text))
        assert ("zmm" in assembly) is not is_brief


def test_the_size_of_a_call_decides_which_code_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = LlvmProgram.machine_code

    def machine_code_of(self: LlvmProgram, *, is_brief: bool) -> MachineCode:
        asked.append(is_brief)
        return real(self, is_brief=is_brief)

    monkeypatch.setattr(LlvmProgram, "machine_code", machine_code_of)
    compiled = LlvmProgram(_program())
    for rows in (1, 64, 100_000):
        RowCall(compiled, compiled.make_block(), rows)
    assert asked == [True, True, False]


def test_code_is_compiled_once_for_each_kind_of_calls() -> None:
    compiled = LlvmProgram(_program())
    first = {is_brief: compiled.machine_code(is_brief=is_brief) for is_brief in (True, False)}
    assert all(compiled.machine_code(is_brief=is_brief) is code for is_brief, code in first.items())
    assert (first[True] is not first[False]) is _HAS_LONG


@pytest.mark.parametrize(("registers", "sums"), list(zip(_KINDS, [4, 8, 16], strict=True)))
def test_half_of_the_registers_hold_sums(registers: Registers, sums: int) -> None:
    assert registers.sums_at_once == sums
    assert MachineCode(_text(registers), FUNCTION_NAME)
