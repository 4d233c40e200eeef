"""Values share scratch memory only when their lifetimes are disjoint."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.engines.row_compiler.row_program import (
    Groups,
    Input,
    Operand,
    Operator,
    Output,
    RowProgram,
    Step,
    plan_scratch,
)

_NUMBER_BY_NUMBER: tuple[Operator, ...] = ("tanh", "add", "where", "max")
_WHOLE: tuple[Operator, ...] = ("product", "arrange", "softmax", "layer_norm", "reduce_sum", "pick")


@st.composite
def programs(draw: st.DrawFn) -> RowProgram:
    """Draw steps that read earlier values or weights; some results are unused, some are read several times."""
    widths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    inputs = [Input("float32", (width,), width) for width in widths]
    steps = []
    for _ in range(draw(st.integers(0, 12))):
        operator = draw(st.sampled_from((*_NUMBER_BY_NUMBER, *_WHOLE)))
        read = draw(st.lists(st.integers(-1, len(widths) - 1), min_size=1, max_size=3))
        operands = [Operand(widths[value], value) if value >= 0 else Operand(1, packed=0) for value in read]
        fitting = [operand.width for operand in operands]
        width = draw(st.integers(1, 5)) if operator in _WHOLE else max(fitting)
        if operator not in _WHOLE:  # a step number by number takes operands of its own width, or of one number
            operands = [o if o.width in (1, width) else Operand(1, packed=0) for o in operands]
        steps.append(Step(operator, tuple(operands), width))
        widths.append(width)
    given_out = draw(st.lists(st.integers(0, len(widths) - 1), min_size=1, max_size=4))
    outputs = [Output(Operand(widths[value], value), "float32", (widths[value],)) for value in given_out]
    return RowProgram(inputs, steps, outputs, [], 16)


@dataclass
class Memory:
    """The (value, number) that each cell holds."""

    cells: list[tuple[int, int] | None]

    def write(self, place: int, value: int, number: int) -> None:
        self.cells[place + number] = (value, number)

    def check(self, place: int, value: int, number: int) -> None:
        assert self.cells[place + number] == (value, number)


def _run(program: RowProgram) -> None:
    """Read and write as the compiled code does, and check that each number read is intact."""
    scratch = plan_scratch(program)
    places, memory = scratch.places, Memory([None] * scratch.numbers)
    for value, source in enumerate(program.inputs):
        for number in range(source.width) if value in places else ():
            memory.write(places[value], value, number)
    for value, step in enumerate(program.steps, len(program.inputs)):
        if value not in places:
            continue
        operands = [operand for operand in step.operands if operand.value >= 0]
        for number in range(step.width):  # a step may read all of its operands at each number
            for operand in operands:
                is_one_for_one = step.operator in _NUMBER_BY_NUMBER and operand.width == step.width
                for i in [number] if is_one_for_one else range(operand.width):
                    memory.check(places[operand.value], operand.value, i)
            memory.write(places[value], value, number)
    for output in program.outputs:
        for number in range(output.operand.width):
            memory.check(places[output.operand.value], output.operand.value, number)


@settings(max_examples=150, deadline=None)
@given(programs())
def test_values_are_intact_when_they_are_read(program: RowProgram) -> None:
    _run(program)


def test_a_chain_takes_the_place_of_one_value() -> None:
    chain = [Step("tanh", (Operand(8, value),), 8) for value in range(10)]
    program = RowProgram([Input("float32", (8,), 8)], chain, [Output(Operand(8, 10), "float32", (8,))], [], 0)
    assert plan_scratch(program).numbers == 8


def test_layers_take_the_places_of_two() -> None:
    layers = [Step("product", (Operand(8, value), Operand(8, packed=0)), 8) for value in range(10)]
    program = RowProgram([Input("float32", (8,), 8)], layers, [Output(Operand(8, 10), "float32", (8,))], [], 64)
    assert plan_scratch(program).numbers == 16


def test_unused_values_have_no_place() -> None:
    """Neither have those that only unused values need."""
    steps = [Step("tanh", (Operand(3, 0),), 3), Step("exp", (Operand(3, 1),), 3), Step("neg", (Operand(3, 3),), 3)]
    program = RowProgram([Input("float32", (3,), 3)] * 2, steps, [Output(Operand(3, 2), "float32", (3,))], [], 0)
    assert set(plan_scratch(program).places) == {0, 2}


def test_the_work_of_a_row_counts_a_matrix_for_each_of_its_rows() -> None:
    x, weight, y = Operand(12, 0), Operand(5, packed=0), Operand(20, 1)
    by_weight, by_value = (
        Step("product", (x, weight), 15, Groups(1, 4, 5)),
        Step("product", (x, y), 15, Groups(1, 4, 5)),
    )

    def work(*steps: Step) -> int:
        return RowProgram([], steps, [], [], 4 * 16).work

    assert work() == 64  # each packed number is read at least once, with its padding
    assert work(by_weight) == 64 + 2 * 4 * 5
    assert work(by_value) == 64 + 3 * 4 * 5
