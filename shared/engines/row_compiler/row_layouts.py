"""The two layouts of rows in vectors: sixteen rows with one row per lane, and one row with its numbers in the lanes."""

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
from shared.engines.row_compiler.row_program import Input, Operand, Output
from shared.engines.row_compiler.rows import Rows
from shared.engines.row_compiler.vector_math import FLOAT, INT32

_ORDER = ir.VectorType(INT32, LANES)


class SingleRow(Rows):
    """One row; a vector holds sixteen consecutive numbers of it."""

    def vector_count(self, width: int) -> int:
        return -(-width // LANES)

    def load_vector_at(self, operand: Operand, place: ir.Value, i: ir.Value) -> ir.Value:
        base, start = self._base(operand)
        first = self._b.add(self._b.add(INT64(start), place), self._b.mul(i, INT64(LANES)))
        return self.code.load(base, first, VECTOR, 4)

    def store_vector_at(self, value: int, place: ir.Value, i: ir.Value, vector: ir.Value) -> None:
        first = self._b.add(self._b.add(INT64(self._places[value] * LANES), place), self._b.mul(i, INT64(LANES)))
        self.code.store(self.code.scratch, first, vector, 4)

    def copy_run(self, operand: Operand, place: ir.Value, value: int, target: ir.Value, count: int) -> None:
        b, whole = self._b, count // LANES
        self.code.loop(whole, lambda i: self.store_vector_at(value, target, i, self.load_vector_at(operand, place, i)))

        def one(i: ir.Value) -> None:
            j = b.add(i, INT64(whole * LANES))
            self.store_number(value, b.add(target, j), self.load_number(operand, b.add(place, j)))

        self.code.loop(count - whole * LANES, one)

    def load_number(self, operand: Operand, j: ir.Value) -> ir.Value:
        base, place = self._base(operand)
        return self.code.load(base, self._b.add(INT64(place), j), FLOAT, 4)

    def store_number(self, value: int, j: ir.Value, number: ir.Value) -> None:
        self.code.store(self.code.scratch, self._b.add(INT64(self._places[value] * LANES), j), number, 4)

    def _base(self, operand: Operand) -> tuple[ir.Value, int]:
        if operand.value < 0:
            return self.code.weights, operand.packed
        return self.code.scratch, self._places[operand.value] * LANES

    def load_input(self, position: int, source: Input) -> None:
        array, b = self.code.array(position), self._b
        begin = b.mul(self._first, INT64(source.width))

        def one(j: ir.Value) -> None:
            number = self.code.load(array, b.add(begin, j), element_type(source.dtype), bytes_of(source.dtype))
            self.store_number(position, j, to_float(b, number, source.dtype))

        self.code.loop(source.width, one)

    def store_output(self, array: ir.Value, output: Output) -> None:
        b = self._b
        begin = b.mul(self._first, INT64(output.operand.width))

        def one(j: ir.Value) -> None:
            number = from_float(b, self.load_number(output.operand, j), output.dtype)
            self.code.store(array, b.add(begin, j), number, bytes_of(output.dtype))

        self.code.loop(output.operand.width, one)

    def load_weights(self, place: ir.Value, i: ir.Value) -> ir.Value:
        begin = self._b.add(place, self._b.mul(i, INT64(LANES)))
        return self.code.load(self.code.weights, begin, VECTOR, VECTOR_BYTES)

    def spread(self, number: ir.Value) -> ir.Value:
        return self.code.splat(number)

    def broadcast(self, number: ir.Value) -> ir.Value:
        return number


class BlockRows(Rows):
    """Sixteen rows; a vector holds number ``j`` of all of them."""

    def vector_count(self, width: int) -> int:
        return width

    def load_vector_at(self, operand: Operand, place: ir.Value, i: ir.Value) -> ir.Value:
        return self.load_number(operand, self._b.add(place, i))

    def store_vector_at(self, value: int, place: ir.Value, i: ir.Value, vector: ir.Value) -> None:
        self.store_number(value, self._b.add(place, i), vector)

    def copy_run(self, operand: Operand, place: ir.Value, value: int, target: ir.Value, count: int) -> None:
        self.code.loop(count, lambda i: self.store_vector_at(value, target, i, self.load_vector_at(operand, place, i)))

    def load_number(self, operand: Operand, j: ir.Value) -> ir.Value:
        if operand.value < 0:
            return self.load_weights(INT64(operand.packed), j)
        place = self._b.add(INT64(self._places[operand.value] * LANES), self._b.mul(j, INT64(LANES)))
        return self.code.load(self.code.scratch, place, VECTOR, VECTOR_BYTES)

    def store_number(self, value: int, j: ir.Value, number: ir.Value) -> None:
        place = self._b.add(INT64(self._places[value] * LANES), self._b.mul(j, INT64(LANES)))
        self.code.store(self.code.scratch, place, number, VECTOR_BYTES)

    def load_weights(self, place: ir.Value, i: ir.Value) -> ir.Value:
        return self.broadcast(self.code.load(self.code.weights, self._b.add(place, i), FLOAT, 4))

    def spread(self, number: ir.Value) -> ir.Value:
        return number

    def load_input(self, position: int, source: Input) -> None:
        array, b, code = self.code.array(position), self._b, self.code
        element, width = element_type(source.dtype), source.width
        begin = b.mul(self._first, INT64(width))
        tiles = width // LANES if element == FLOAT else 0

        def tile(i: ir.Value) -> None:
            place = b.add(begin, b.mul(i, INT64(LANES)))
            rows = [code.load(array, b.add(place, INT64(row * width)), VECTOR, 4) for row in range(LANES)]
            for j, number in enumerate(_transposed(b, rows)):
                self.store_number(position, b.add(b.mul(i, INT64(LANES)), INT64(j)), number)

        def one(i: ir.Value) -> None:
            j = b.add(i, INT64(tiles * LANES))
            vector = ir.Constant(ir.VectorType(element, LANES), ir.Undefined)
            for row in range(LANES):
                place = b.add(b.add(begin, j), INT64(row * width))
                number = code.load(array, place, element, bytes_of(source.dtype))
                vector = b.insert_element(vector, number, INT32(row))
            self.store_number(position, j, to_float(b, vector, source.dtype))

        code.loop(tiles, tile)
        code.loop(width - tiles * LANES, one)

    def store_output(self, array: ir.Value, output: Output) -> None:
        b, width, size = self._b, output.operand.width, bytes_of(output.dtype)
        begin = b.mul(self._first, INT64(width))
        tiles = width // LANES if element_type(output.dtype) == FLOAT else 0

        def tile(i: ir.Value) -> None:
            numbers = [self.load_number(output.operand, b.add(b.mul(i, INT64(LANES)), INT64(j))) for j in range(LANES)]
            place = b.add(begin, b.mul(i, INT64(LANES)))
            for row, vector in enumerate(_transposed(b, numbers)):
                self.code.store(array, b.add(place, INT64(row * width)), vector, size)

        def one(i: ir.Value) -> None:
            j = b.add(i, INT64(tiles * LANES))
            vector = from_float(b, self.load_number(output.operand, j), output.dtype)
            if width == 1:
                self.code.store(array, begin, vector, size)
                return
            for row in range(LANES):
                place = b.add(b.add(begin, j), INT64(row * width))
                self.code.store(array, place, b.extract_element(vector, INT32(row)), size)

        self.code.loop(tiles, tile)
        self.code.loop(width - tiles * LANES, one)

    def broadcast(self, number: ir.Value) -> ir.Value:
        return self.code.splat(number)


def _transposed(b: ir.IRBuilder, vectors: Values) -> Values:
    """Transpose as many vectors as each has lanes, by halves of halves (Eklundh 1972)."""
    distance = LANES // 2
    while distance:
        of_first = _ORDER([lane - distance + LANES if lane & distance else lane for lane in range(LANES)])
        of_second = _ORDER([lane + LANES if lane & distance else lane + distance for lane in range(LANES)])
        turned = list(vectors)
        for i in range(LANES):
            if not i & distance:
                first, second = vectors[i], vectors[i + distance]
                turned[i] = b.shuffle_vector(first, second, of_first)
                turned[i + distance] = b.shuffle_vector(first, second, of_second)
        vectors = turned
        distance //= 2
    return vectors
