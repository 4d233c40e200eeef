"""Code for all steps of a row program, independent of how the rows lie in vectors (see ``row_layouts``)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, VECTOR, Emitter, Values
from shared.engines.row_compiler.group_code import emit_in_groups
from shared.engines.row_compiler.row_program import InGroups, Input, Operand, Output, RowProgram, Step, stride_of
from shared.engines.row_compiler.vector_math import constant
from shared.engines.row_compiler.views import Move

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARISONS = {"equal": "==", "greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<="}
_IN_GROUPS = frozenset(get_args(InGroups))


class Rows(ABC):
    """Emits all steps for the rows from ``first`` on that are computed together; the subclass determines how many."""

    def __init__(
        self, program: RowProgram, places: Mapping[int, int], code: Emitter, first: ir.Value, sums_at_once: int
    ) -> None:
        """``sums_at_once`` is the number of vectors of a product that are summed side by side."""
        self._program = program
        self._places = places
        self.code = code
        self._b = code.builder
        self.math = code.math
        self._first = first
        self._sums_at_once = sums_at_once

    @abstractmethod
    def vector_count(self, width: int) -> int:
        """Return the number of vectors that hold a value of ``width`` numbers per row."""

    @abstractmethod
    def load_vector_at(self, operand: Operand, place: ir.Value, i: ir.Value) -> ir.Value:
        """Load vector ``i`` of those that begin at number ``place``; single rows read past the end of the last."""

    @abstractmethod
    def store_vector_at(self, value: int, place: ir.Value, i: ir.Value, vector: ir.Value) -> None:
        """Store vector ``i`` of those that begin at number ``place``; single rows write past the end of the last.

        So numbers are stored in the order of their places, and before anything that lies behind them.
        """

    @abstractmethod
    def load_number(self, operand: Operand, j: ir.Value) -> ir.Value:
        """Load number ``j`` of each row."""

    @abstractmethod
    def store_number(self, value: int, j: ir.Value, number: ir.Value) -> None: ...

    @abstractmethod
    def load_input(self, position: int, source: Input) -> None:
        """Copy an input into scratch memory, as float32."""

    @abstractmethod
    def store_output(self, array: ir.Value, output: Output) -> None: ...

    @abstractmethod
    def load_weights(self, place: ir.Value, i: ir.Value) -> ir.Value:
        """Load vector ``i`` of the packed row at ``place``."""

    @abstractmethod
    def spread(self, number: ir.Value) -> ir.Value:
        """Return a number of each row as a vector to combine with vectors."""

    @abstractmethod
    def broadcast(self, number: ir.Value) -> ir.Value:
        """Return ``number`` for each of the rows."""

    @abstractmethod
    def copy_run(self, operand: Operand, place: ir.Value, value: int, target: ir.Value, count: int) -> None:
        """Copy ``count`` numbers that follow one another from ``place`` to ``target``."""

    def load_vector(self, operand: Operand, i: ir.Value) -> ir.Value:
        """Load vector ``i`` of an operand; an operand of width 1 is broadcast."""
        if operand.width == 1:
            return self.spread(self.load_number(operand, INT64(0)))
        return self.load_vector_at(operand, INT64(0), i)

    def emit(self) -> None:
        """Emit the inputs' loads, all used steps, the outputs' stores and their checks."""
        inputs = self._program.inputs
        for position, source in enumerate(inputs):
            if position in self._places:
                self.load_input(position, source)
        for value, step in enumerate(self._program.steps, len(inputs)):
            if value in self._places:
                self._step(value, step)
        for position, output in enumerate(self._program.outputs, len(inputs)):
            self.store_output(self.code.array(position), output)
            if output.low is not None and output.high is not None:
                self._check(output.operand, output.low, output.high)

    def _check(self, x: Operand, low: Operand, high: Operand) -> None:
        b = self._b

        def bound(operand: Operand, j: ir.Value) -> ir.Value:
            return self.load_number(operand, INT64(0) if operand.width == 1 else j)

        def also(j: ir.Value, within: Values) -> Values:
            number = self.load_number(x, j)  # no comparison is true of NaN
            is_above = b.fcmp_ordered(">=", number, bound(low, j))
            return [b.and_(within[0], b.and_(is_above, b.fcmp_ordered("<=", number, bound(high, j))))]

        number = self.load_number(x, INT64(0))
        (within,) = self.code.fold(x.width, [b.fcmp_ordered("==", number, number)], also)
        self.code.require(within)

    def _step(self, value: int, step: Step) -> None:
        if step.operator == "product":
            self._product(value, step)
        elif step.operator == "arrange":
            for operand, move in zip(step.operands, step.moves, strict=True):
                self._move(value, operand, move)
        elif step.operator in _IN_GROUPS:
            emit_in_groups(self, value, step)
        else:

            def one(i: ir.Value) -> None:
                vector = self._elementwise(step, [self.load_vector(operand, i) for operand in step.operands])
                self.store_vector_at(value, INT64(0), i, vector)

            self.code.loop(self.vector_count(step.width), one)

    def _product(self, value: int, step: Step) -> None:
        """Multiply each row of each group; rows that fit the registers together share the loads of the matrix."""
        b, (outer, _, columns), at_once = self._b, step.groups, self._sums_at_once
        rows, vectors = step.width // (outer * columns), self.vector_count(columns)
        together = max(1, min(rows, at_once // vectors))

        def group(g: ir.Value) -> None:
            def several(i: ir.Value, count: int = together) -> None:
                first = b.mul(i, INT64(together))
                sums = _Sums(g, [b.add(b.add(b.mul(g, INT64(rows)), first), INT64(row)) for row in range(count)])
                batches, left = divmod(vectors, at_once)
                self.code.loop(batches, lambda j: self._sum(value, step, sums, b.mul(j, INT64(at_once)), at_once))
                if left:
                    self._sum(value, step, sums, INT64(batches * at_once), left)

            self.code.loop(rows // together, several)
            if rows % together:
                several(INT64(rows // together), rows % together)

        self.code.loop(outer, group)

    def _sum(self, value: int, step: Step, sums: "_Sums", begin: ir.Value, count: int) -> None:
        """Compute vectors ``begin`` to ``begin + count`` of some rows of a product side by side."""
        x, matrix, *bias = step.operands
        b, (_, length, columns) = self._b, step.groups
        places = [b.add(begin, INT64(i)) for i in range(count)]
        first = [self.load_weights(INT64(bias[0].packed), i) if bias else constant(VECTOR, 0.0) for i in places]
        starts = [b.mul(row, INT64(length)) for row in sums.rows]
        is_padded = matrix.value < 0 and matrix.width == columns

        def load(k: ir.Value, i: ir.Value) -> ir.Value:
            if is_padded:
                return self.load_weights(b.add(INT64(matrix.packed), b.mul(k, INT64(stride_of(columns)))), i)
            row = b.add(b.mul(sums.group, INT64(length)), k)
            return self.load_vector_at(matrix, b.mul(row, INT64(columns)), i)

        def add(k: ir.Value, totals: Values) -> Values:
            factors = [self.spread(self.load_number(x, b.add(start, k))) for start in starts]
            loaded = [load(k, i) for i in places]
            terms = [(part, factor) for factor in factors for part in loaded]
            return [self.math.fma(part, factor, total) for (part, factor), total in zip(terms, totals, strict=True)]

        totals = iter(self.code.fold(length, first * len(starts), add))
        for row in sums.rows:
            for i in places:
                self.store_vector_at(value, b.mul(row, INT64(columns)), i, next(totals))

    def _elementwise(self, step: Step, x: Values) -> ir.Value:
        b, operator = self._b, step.operator
        if operator in _ARITHMETIC:
            return getattr(b, _ARITHMETIC[operator])(*x)
        if operator in _COMPARISONS:
            return self.math.from_flags(b.fcmp_ordered(_COMPARISONS[operator], *x), x[0])
        if operator == "where":
            return b.select(b.fcmp_ordered("!=", x[0], constant(x[0].type, 0.0)), x[1], x[2])
        return getattr(self.math, operator)(*x, *step.numbers)

    def _move(self, value: int, operand: Operand, move: Move) -> None:
        b = self._b
        is_run = move.strides[-1] == move.target_strides[-1] == 1

        def copy(axis: int, place: ir.Value, target: ir.Value) -> None:
            if axis == len(move.sizes):
                self.store_number(value, target, self.load_number(operand, place))
            elif is_run and axis == len(move.sizes) - 1:
                self.copy_run(operand, place, value, target, move.sizes[axis])
            else:

                def one(i: ir.Value) -> None:
                    stride, to = INT64(move.strides[axis]), INT64(move.target_strides[axis])
                    copy(axis + 1, b.add(place, b.mul(i, stride)), b.add(target, b.mul(i, to)))

                self.code.loop(move.sizes[axis], one)

        copy(0, INT64(move.start), INT64(move.target))


@dataclass(frozen=True)
class _Sums:
    """Rows of a product that are computed together, and their group."""

    group: ir.Value
    rows: Sequence[ir.Value]
