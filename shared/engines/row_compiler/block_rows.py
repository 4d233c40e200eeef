"""Sixteen rows at a time."""

from collections.abc import Mapping

from llvmlite import ir

from shared.engines.row_compiler.emitter import (
    INT64,
    LANES,
    VECTOR,
    VECTOR_BYTES,
    Emitter,
    Values,
    bytes_of,
    element_type,
    from_float,
    to_float,
)
from shared.engines.row_compiler.row_program import Input, Operand, Output, RowProgram, Step, stride_of
from shared.engines.row_compiler.rows import Rows
from shared.engines.row_compiler.vector_math import FLOAT, INT32


class BlockRows(Rows):
    """Sixteen rows, one in each lane: number ``j`` of all of them is one vector."""

    def __init__(
        self,
        program: RowProgram,
        places: Mapping[int, int],
        code: Emitter,
        first: ir.Value,
        sums_at_once: int,
    ) -> None:
        """``sums_at_once``: how many numbers of a linear step's result are summed up side by side."""
        super().__init__(program, places, code, first)
        self._tile = sums_at_once

    def pieces(self, width: int) -> int:
        return width

    def piece(self, operand: Operand, i: ir.Value) -> ir.Value:
        return self.number(operand, INT64(0) if operand.width == 1 else i)

    def put_piece(self, value: int, i: ir.Value, vector: ir.Value) -> None:
        self.put_number(value, i, vector)

    def number(self, operand: Operand, j: ir.Value) -> ir.Value:
        if operand.value < 0:
            return self._weight(INT64(operand.packed), j)
        place = self._b.add(INT64(self._places[operand.value] * LANES), self._b.mul(j, INT64(LANES)))
        return self._code.load(self._code.scratch, place, VECTOR, VECTOR_BYTES)

    def put_number(self, value: int, j: ir.Value, number: ir.Value) -> None:
        place = self._b.add(INT64(self._places[value] * LANES), self._b.mul(j, INT64(LANES)))
        self._code.store(self._code.scratch, place, number, VECTOR_BYTES)

    def _weight(self, place: ir.Value, j: ir.Value) -> ir.Value:
        return self._code.splat(self._code.load(self._code.weights, self._b.add(place, j), FLOAT, 4))

    def take_in(self, position: int, source: Input) -> None:
        array, b, code = self._code.array(position), self._b, self._code
        element, width = element_type(source.dtype), source.width
        begin = b.mul(self._first, INT64(width))
        tiles = width // LANES if element == FLOAT else 0

        def tile(i: ir.Value) -> None:
            place = b.add(begin, b.mul(i, INT64(LANES)))
            rows = [code.load(array, b.add(place, INT64(row * width)), VECTOR, 4) for row in range(LANES)]
            for j, number in enumerate(_turned(b, rows)):
                self.put_number(position, b.add(b.mul(i, INT64(LANES)), INT64(j)), number)

        def one(i: ir.Value) -> None:
            j = b.add(i, INT64(tiles * LANES))
            vector = ir.Constant(ir.VectorType(element, LANES), ir.Undefined)
            for row in range(LANES):
                place = b.add(b.add(begin, j), INT64(row * width))
                number = code.load(array, place, element, bytes_of(source.dtype))
                vector = b.insert_element(vector, number, INT32(row))
            self.put_number(position, j, to_float(b, vector, source.dtype))

        code.each(tiles, tile)
        code.each(width - tiles * LANES, one)

    def give_out(self, array: ir.Value, output: Output) -> None:
        b, width, size = self._b, output.operand.width, bytes_of(output.dtype)
        begin = b.mul(self._first, INT64(width))
        tiles = width // LANES if element_type(output.dtype) == FLOAT else 0

        def tile(i: ir.Value) -> None:
            numbers = [self.number(output.operand, b.add(b.mul(i, INT64(LANES)), INT64(j))) for j in range(LANES)]
            place = b.add(begin, b.mul(i, INT64(LANES)))
            for row, vector in enumerate(_turned(b, numbers)):
                self._code.store(array, b.add(place, INT64(row * width)), vector, size)

        def one(i: ir.Value) -> None:
            j = b.add(i, INT64(tiles * LANES))
            vector = from_float(b, self.number(output.operand, j), output.dtype)
            if width == 1:
                self._code.store(array, begin, vector, size)
                return
            for row in range(LANES):
                place = b.add(b.add(begin, j), INT64(row * width))
                self._code.store(array, place, b.extract_element(vector, INT32(row)), size)

        self._code.each(tiles, tile)
        self._code.each(width - tiles * LANES, one)

    def linear(self, value: int, step: Step) -> None:
        tiles, left = divmod(step.width, self._tile)
        if tiles:
            self._code.each(tiles, lambda i: self._linear(value, step, self._b.mul(i, INT64(self._tile)), self._tile))
        if left:
            self._linear(value, step, INT64(tiles * self._tile), left)

    def _linear(self, value: int, step: Step, begin: ir.Value, count: int) -> None:
        """Numbers ``begin`` to ``begin + count`` of the result, summed up side by side."""
        x, weight, *bias = step.operands
        stride = stride_of(step.width)
        columns = [self._b.add(begin, INT64(j)) for j in range(count)]
        first = [self._weight(INT64(bias[0].packed), j) if bias else self._math.number_of(VECTOR, 0.0) for j in columns]

        def add(k: ir.Value, sums: Values) -> Values:
            number = self.number(x, k)
            row = self._b.add(INT64(weight.packed), self._b.mul(k, INT64(stride)))
            return [self._math.fused(self._weight(row, j), number, s) for j, s in zip(columns, sums, strict=True)]

        for j, total in zip(columns, self._code.fold(x.width, first, add), strict=True):
            self.put_number(value, j, total)

    def _in_all_rows(self, number: ir.Value) -> ir.Value:
        return self._code.splat(number)


def _turned(b: ir.IRBuilder, vectors: Values) -> Values:
    """As many vectors as each has lanes, transposed: in halves, then in halves of these, and so on (Eklundh 1972)."""
    distance = LANES // 2
    while distance:
        of_first = _order([lane - distance + LANES if lane & distance else lane for lane in range(LANES)])
        of_second = _order([lane + LANES if lane & distance else lane + distance for lane in range(LANES)])
        turned = list(vectors)
        for i in range(LANES):
            if not i & distance:
                first, second = vectors[i], vectors[i + distance]
                turned[i] = b.shuffle_vector(first, second, of_first)
                turned[i + distance] = b.shuffle_vector(first, second, of_second)
        vectors = turned
        distance //= 2
    return vectors


def _order(lanes: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(INT32, LANES), lanes)
