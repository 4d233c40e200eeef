"""Offsets of a row program's values in scratch memory. Values with disjoint lifetimes share memory and cache."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.engines.row_compiler.row_program import RowProgram

# Number i of the result may depend on any number of an operand, so the result cannot overwrite an operand.
_NOT_IN_PLACE = frozenset({"linear", "argmax", "pick", "sum", "log_softmax", "softmax", "slice", "concat"})


@dataclass(frozen=True)
class Scratch:
    """Offset of each used value in ``places``, and the size of all in ``numbers``; both in numbers per row."""

    places: Mapping[int, int]
    numbers: int


def plan_scratch(program: RowProgram) -> Scratch:
    """Return offsets at which no two values that are alive at the same time overlap."""
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
            if program.steps[step].operator not in _NOT_IN_PLACE:
                reused = next((operand for operand in dying if widths[operand] == width), None)
                if reused is not None:
                    dying.remove(reused)
                    places[value] = places[reused]
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
    """Map each used value to its last reading step; outputs count as read one step after the last."""
    uses: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        uses.update({operand.value: number for operand in step.operands if operand.value >= 0})
    uses.update({output.operand.value: len(program.steps) for output in program.outputs})
    return uses
