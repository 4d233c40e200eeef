"""Where each value of a row program lies while it is needed.

The less memory is used, the more of it stays in the nearest cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.engines.row_compiler.row_program import RowProgram

# Steps that read more of their operands than number i for number i of the result. All others may write over an operand.
_WHOLE = frozenset({"linear", "argmax", "pick", "sum", "log_softmax", "softmax", "slice", "concat"})


@dataclass(frozen=True)
class Scratch:
    """``places``: of each value that is used, counted in numbers of one row. ``numbers``: how many there are in all."""

    places: Mapping[int, int]
    numbers: int


def plan_scratch(program: RowProgram) -> Scratch:
    """Values whose lives do not meet may share a place."""
    last_use = _last_uses(program)
    widths = [source.width for source in program.inputs] + [step.width for step in program.steps]
    places: dict[int, int] = {}
    free: list[tuple[int, int]] = []  # (width, place)
    end = 0
    for value, width in enumerate(widths):
        if value not in last_use:
            continue
        step = value - len(program.inputs)
        dying = []
        if step >= 0:
            operands = {operand.value for operand in program.steps[step].operands if operand.value >= 0}
            dying = [operand for operand in sorted(operands) if last_use[operand] == step]
            if program.steps[step].operator not in _WHOLE:
                heir = next((operand for operand in dying if widths[operand] == width), None)
                if heir is not None:
                    dying.remove(heir)
                    places[value] = places[heir]
        if value not in places:
            fitting = [gap for gap in free if gap[0] >= width]
            if fitting:
                gap = min(fitting)
                free.remove(gap)
                places[value] = gap[1]
            else:
                places[value], end = end, end + width
        free += [(widths[operand], places[operand]) for operand in dying]
    return Scratch(places, end)


def _last_uses(program: RowProgram) -> dict[int, int]:
    """The step that reads each value last; one after the last step for what comes out. Others are read by nobody."""
    uses: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        uses.update({operand.value: number for operand in step.operands if operand.value >= 0})
    uses.update({output.operand.value: len(program.steps) for output in program.outputs})
    return uses
