"""Code for all steps of a row program, independent of how the rows lie in vectors (see ``row_layouts``)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, VECTOR, Emitter, Values
from shared.engines.row_compiler.row_program import Input, Operand, Output, RowProgram, Step, stride_of
from shared.engines.row_compiler.vector_math import FLOAT, constant

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARISONS = {"equal": "==", "greater": ">", "less": "<"}


class Rows(ABC):
    """Emits all steps for the rows from ``first`` on that are computed together; the subclass determines how many."""

    def __init__(
        self, program: RowProgram, places: Mapping[int, int], code: Emitter, first: ir.Value, sums_at_once: int
    ) -> None:
        """``sums_at_once`` is the number of vectors of a linear step's result that are summed side by side."""
        self._program = program
        self._places = places
        self._code = code
        self._b = code.builder
        self._math = code.math
        self._first = first
        self._sums_at_once = sums_at_once

    @abstractmethod
    def vector_count(self, width: int) -> int:
        """Return the number of vectors that hold a value of ``width`` numbers per row."""

    @abstractmethod
    def load_vector(self, operand: Operand, i: ir.Value) -> ir.Value:
        """Load vector ``i`` of an operand; an operand of width 1 is broadcast."""

    @abstractmethod
    def store_vector(self, value: int, i: ir.Value, vector: ir.Value) -> None: ...

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
    def load_factor(self, operand: Operand, k: ir.Value) -> ir.Value:
        """Load number ``k`` of each row as a vector to multiply weights with."""

    @abstractmethod
    def broadcast(self, number: ir.Value) -> ir.Value:
        """Return ``number`` for each of the rows."""

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
            self.store_output(self._code.array(position), output)
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
        (within,) = self._code.fold(x.width, [b.fcmp_ordered("==", number, number)], also)
        self._code.require(within)

    def _step(self, value: int, step: Step) -> None:
        if step.operator == "linear":
            self._linear(value, step)
        elif step.operator in ("slice", "concat"):
            self._rearrange(value, step)
        elif step.operator in ("argmax", "pick", "sum"):
            self._reduce(value, step)
        elif step.operator in ("log_softmax", "softmax"):
            self._softmax(value, step)
        else:

            def one(i: ir.Value) -> None:
                self.store_vector(value, i, self._elementwise(step, [self.load_vector(o, i) for o in step.operands]))

            self._code.loop(self.vector_count(step.width), one)

    def _linear(self, value: int, step: Step) -> None:
        at_once = self._sums_at_once
        groups, left = divmod(self.vector_count(step.width), at_once)
        if groups:
            self._code.loop(groups, lambda i: self._sums(value, step, self._b.mul(i, INT64(at_once)), at_once))
        if left:
            self._sums(value, step, INT64(groups * at_once), left)

    def _sums(self, value: int, step: Step, begin: ir.Value, count: int) -> None:
        """Compute vectors ``begin`` to ``begin + count`` of a linear step's result side by side."""
        x, weight, *bias = step.operands
        b, stride = self._b, INT64(stride_of(step.width))
        places = [b.add(begin, INT64(i)) for i in range(count)]
        first = [self.load_weights(INT64(bias[0].packed), i) if bias else constant(VECTOR, 0.0) for i in places]

        def add(k: ir.Value, sums: Values) -> Values:
            factor = self.load_factor(x, k)
            row = b.add(INT64(weight.packed), b.mul(k, stride))
            return [self._math.fma(self.load_weights(row, i), factor, s) for i, s in zip(places, sums, strict=True)]

        for i, total in zip(places, self._code.fold(x.width, first, add), strict=True):
            self.store_vector(value, i, total)

    def _elementwise(self, step: Step, x: Values) -> ir.Value:
        b, operator = self._b, step.operator
        if operator in _ARITHMETIC:
            return getattr(b, _ARITHMETIC[operator])(*x)
        if operator in _COMPARISONS:
            return self._math.from_flags(b.fcmp_ordered(_COMPARISONS[operator], *x), x[0])
        if operator == "where":
            return b.select(b.fcmp_ordered("!=", x[0], constant(x[0].type, 0.0)), x[1], x[2])
        return getattr(self._math, operator)(*x)

    def _rearrange(self, value: int, step: Step) -> None:
        b, place = self._b, 0
        for operand in step.operands:
            width = step.width if step.operator == "slice" else operand.width

            def copy(j: ir.Value, operand: Operand = operand, place: int = place) -> None:
                number = self.load_number(operand, b.add(j, INT64(step.start)))
                self.store_number(value, b.add(j, INT64(place)), number)

            self._code.loop(width, copy)
            place += width

    def _reduce(self, value: int, step: Step) -> None:
        x, width = step.operands[0], step.operands[0].width
        first = self.load_number(x, INT64(0))
        if step.operator == "argmax":
            _, result = self._code.fold(width, [first, constant(first.type, 0.0)], self._larger(x))
        elif step.operator == "pick":
            place = self.load_number(step.operands[1], INT64(0))

            def picked(j: ir.Value, values: Values) -> Values:
                here = self.broadcast(self._b.uitofp(j, FLOAT))
                return [self._b.select(self._b.fcmp_ordered("==", place, here), self.load_number(x, j), values[0])]

            (result,) = self._code.fold(width, [first], picked)
        else:
            zero = constant(first.type, 0.0)
            (result,) = self._code.fold(width, [zero], lambda j, sums: [self._b.fadd(sums[0], self.load_number(x, j))])
        self.store_number(value, INT64(0), result)

    def _larger(self, x: Operand) -> Callable[[ir.Value, Values], Values]:
        def body(j: ir.Value, values: Values) -> Values:
            number, (best, place) = self.load_number(x, j), values
            is_larger = self._b.fcmp_ordered(">", number, best)
            here = self.broadcast(self._b.uitofp(j, FLOAT))
            return [self._b.select(is_larger, number, best), self._b.select(is_larger, here, place)]

        return body

    def _softmax(self, value: int, step: Step) -> None:
        """Subtract the largest number before exponentials are summed, so that none overflows."""
        b, math, x = self._b, self._math, step.operands[0]
        first = self.load_number(x, INT64(0))
        zero = constant(first.type, 0.0)
        largest, _ = self._code.fold(step.width, [first, zero], self._larger(x))

        def add(j: ir.Value, values: Values) -> Values:
            return [b.fadd(values[0], math.exp(b.fsub(self.load_number(x, j), largest)))]

        (total,) = self._code.fold(step.width, [zero], add)
        logarithm = math.log(total) if step.operator == "log_softmax" else None

        def put(j: ir.Value) -> None:
            less = b.fsub(self.load_number(x, j), largest)
            result = b.fdiv(math.exp(less), total) if logarithm is None else b.fsub(less, logarithm)
            self.store_number(value, j, result)

        self._code.loop(step.width, put)
