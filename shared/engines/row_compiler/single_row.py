"""One row at a time."""

from llvmlite import ir

from shared.engines.row_compiler.emitter import (
    INT64,
    LANES,
    VECTOR,
    VECTOR_BYTES,
    Values,
    bytes_of,
    element_type,
    from_float,
    to_float,
)
from shared.engines.row_compiler.row_program import Input, Operand, Output, Step, stride_of
from shared.engines.row_compiler.rows import Rows
from shared.engines.row_compiler.vector_math import FLOAT

_VECTORS_AT_ONCE = 4


class SingleRow(Rows):
    """One row, its numbers side by side: sixteen of them are one vector."""

    def pieces(self, width: int) -> int:
        return -(-width // LANES)

    def piece(self, operand: Operand, i: ir.Value) -> ir.Value:
        if operand.width == 1:
            return self._code.splat(self.number(operand, INT64(0)))
        base, place = self._base(operand)
        return self._code.load(base, self._b.add(INT64(place), self._b.mul(i, INT64(LANES))), VECTOR, VECTOR_BYTES)

    def put_piece(self, value: int, i: ir.Value, vector: ir.Value) -> None:
        place = self._b.add(INT64(self._places[value] * LANES), self._b.mul(i, INT64(LANES)))
        self._code.store(self._code.scratch, place, vector, VECTOR_BYTES)

    def number(self, operand: Operand, j: ir.Value) -> ir.Value:
        base, place = self._base(operand)
        return self._code.load(base, self._b.add(INT64(place), j), FLOAT, 4)

    def put_number(self, value: int, j: ir.Value, number: ir.Value) -> None:
        self._code.store(self._code.scratch, self._b.add(INT64(self._places[value] * LANES), j), number, 4)

    def _base(self, operand: Operand) -> tuple[ir.Value, int]:
        if operand.value < 0:
            return self._code.weights, operand.packed
        return self._code.scratch, self._places[operand.value] * LANES

    def take_in(self, position: int, source: Input) -> None:
        array, b = self._code.array(position), self._b
        begin = b.mul(self._first, INT64(source.width))

        def one(j: ir.Value) -> None:
            number = self._code.load(array, b.add(begin, j), element_type(source.dtype), bytes_of(source.dtype))
            self.put_number(position, j, to_float(b, number, source.dtype))

        self._code.each(source.width, one)

    def give_out(self, array: ir.Value, output: Output) -> None:
        b = self._b
        begin = b.mul(self._first, INT64(output.operand.width))

        def one(j: ir.Value) -> None:
            number = from_float(b, self.number(output.operand, j), output.dtype)
            self._code.store(array, b.add(begin, j), number, bytes_of(output.dtype))

        self._code.each(output.operand.width, one)

    def linear(self, value: int, step: Step) -> None:
        vectors = self.pieces(step.width)
        groups, left = divmod(vectors, _VECTORS_AT_ONCE)
        if groups:
            at_once = INT64(_VECTORS_AT_ONCE)
            self._code.each(groups, lambda i: self._linear(value, step, self._b.mul(i, at_once), _VECTORS_AT_ONCE))
        if left:
            self._linear(value, step, INT64(groups * _VECTORS_AT_ONCE), left)

    def _linear(self, value: int, step: Step, begin: ir.Value, count: int) -> None:
        x, weight, *bias = step.operands
        code, b, stride = self._code, self._b, stride_of(step.width)
        pieces = [b.add(begin, INT64(i)) for i in range(count)]

        def vector(place: ir.Value, i: ir.Value) -> ir.Value:
            return code.load(code.weights, b.add(place, b.mul(i, INT64(LANES))), VECTOR, VECTOR_BYTES)

        first = [vector(INT64(bias[0].packed), i) if bias else self._math.number_of(VECTOR, 0.0) for i in pieces]

        def add(k: ir.Value, sums: Values) -> Values:
            number = code.splat(self.number(x, k))
            row = b.add(INT64(weight.packed), b.mul(k, INT64(stride)))
            return [self._math.fused(vector(row, i), number, s) for i, s in zip(pieces, sums, strict=True)]

        for i, total in zip(pieces, code.fold(x.width, first, add), strict=True):
            self.put_piece(value, i, total)

    def _in_all_rows(self, number: ir.Value) -> ir.Value:
        return number
