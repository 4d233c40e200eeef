"""Has a program say itself whether its outputs are within bounds."""

from collections.abc import Sequence
from dataclasses import replace

from shared.engines.row_compiler.row_program import Operand, Packed, RowProgram, stride_of
from shared.policy.output_bounds import Bounds


def bounded(program: RowProgram, bounds: Sequence[Bounds]) -> RowProgram:
    """``program``, whose code then returns 1 where all outputs are within ``bounds``, one for each of them.

    As it is where the outputs are not of these shapes. Then, and without bounds, its code returns 0.
    """
    if [output.shape for output in program.outputs] != [each.shape for each in bounds]:
        return program
    packed, end = list(program.packed), program.packed_floats
    places: dict[tuple[float, ...], int] = {}
    for numbers in (numbers for each in bounds for numbers in (each.low, each.high)):
        if numbers not in places:
            places[numbers] = end
            packed.append(Packed("", numbers, end, 1, len(numbers), stride_of(len(numbers))))
            end += stride_of(len(numbers))

    def operand(numbers: tuple[float, ...]) -> Operand:
        return Operand(len(numbers), packed=places[numbers])

    outputs = [
        replace(output, low=operand(each.low), high=operand(each.high))
        for output, each in zip(program.outputs, bounds, strict=True)
    ]
    return replace(program, outputs=outputs, packed=packed, packed_floats=end)
