"""What is the same for rows that are worked on together and for one alone: each step, number by number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, Emitter, Values
from shared.engines.row_compiler.row_program import Input, Operand, Output, RowProgram, Step
from shared.engines.row_compiler.vector_math import FLOAT

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARISONS = {"equal": "==", "greater": ">", "less": "<"}


class Rows(ABC):
    """Emits all steps for the rows from ``first`` on that are worked on together: as many as the subclass says."""

    def __init__(self, program: RowProgram, places: Mapping[int, int], code: Emitter, first: ir.Value) -> None:
        self._program = program
        self._places = places
        self._code = code
        self._b = code.builder
        self._math = code.math
        self._first = first

    # What the subclass knows: where numbers lie.

    @abstractmethod
    def pieces(self, width: int) -> int:
        """How many vectors hold a value of ``width`` numbers for each row."""
        ...

    @abstractmethod
    def piece(self, operand: Operand, i: ir.Value) -> ir.Value:
        """The vector ``i`` of them; a value of one number goes with any other's."""
        ...

    @abstractmethod
    def put_piece(self, value: int, i: ir.Value, vector: ir.Value) -> None: ...

    @abstractmethod
    def number(self, operand: Operand, j: ir.Value) -> ir.Value:
        """Number ``j`` of each row."""
        ...

    @abstractmethod
    def put_number(self, value: int, j: ir.Value, number: ir.Value) -> None: ...

    @abstractmethod
    def take_in(self, position: int, source: Input) -> None:
        """Copy an input into scratch memory, as floats."""
        ...

    @abstractmethod
    def give_out(self, array: ir.Value, output: Output) -> None: ...

    @abstractmethod
    def linear(self, value: int, step: Step) -> None: ...

    # What is the same for all.

    def emit(self) -> None:
        inputs = self._program.inputs
        for position, source in enumerate(inputs):
            if position in self._places:
                self.take_in(position, source)
        for value, step in enumerate(self._program.steps, len(inputs)):
            if value in self._places:
                self._step(value, step)
        for position, output in enumerate(self._program.outputs, len(inputs)):
            self.give_out(self._code.array(position), output)
            if output.low is not None and output.high is not None:
                self._check(output.operand, output.low, output.high)

    def _check(self, x: Operand, low: Operand, high: Operand) -> None:
        b = self._b

        def also(j: ir.Value, within: Values) -> Values:
            number = self.number(x, j)  # no comparison is true of NaN
            is_above = b.fcmp_ordered(">=", number, self._one_of(low, j))
            return [b.and_(within[0], b.and_(is_above, b.fcmp_ordered("<=", number, self._one_of(high, j))))]

        number = self.number(x, INT64(0))
        (within,) = self._code.fold(x.width, [b.fcmp_ordered("==", number, number)], also)
        self._code.keep_only(within)

    def _one_of(self, bound: Operand, j: ir.Value) -> ir.Value:
        return self.number(bound, INT64(0) if bound.width == 1 else j)

    def _step(self, value: int, step: Step) -> None:
        if step.operator == "linear":
            self.linear(value, step)
        elif step.operator in ("slice", "concat"):
            self._rearrange(value, step)
        elif step.operator in ("argmax", "pick", "sum", "log_softmax", "softmax"):
            self._reduce(value, step)
        else:

            def one(i: ir.Value) -> None:
                self.put_piece(value, i, self._elementwise(step, [self.piece(o, i) for o in step.operands]))

            self._code.each(self.pieces(step.width), one)

    def _elementwise(self, step: Step, x: Values) -> ir.Value:
        b, operator = self._b, step.operator
        if operator in _ARITHMETIC:
            return getattr(b, _ARITHMETIC[operator])(*x)
        if operator in _COMPARISONS:
            return self._math.truth(b.fcmp_ordered(_COMPARISONS[operator], *x), x[0])
        if operator == "where":
            return b.select(b.fcmp_ordered("!=", x[0], self._math.number(x[0], 0.0)), x[1], x[2])
        return getattr(self._math, operator)(*x)

    def _rearrange(self, value: int, step: Step) -> None:
        b, place = self._b, 0
        for operand in step.operands:
            width = step.width if step.operator == "slice" else operand.width

            def copy(j: ir.Value, operand: Operand = operand, place: int = place) -> None:
                number = self.number(operand, b.add(j, INT64(step.start)))
                self.put_number(value, b.add(j, INT64(place)), number)

            self._code.each(width, copy)
            place += width

    def _reduce(self, value: int, step: Step) -> None:
        x, width = step.operands[0], step.operands[0].width
        first = self.number(x, INT64(0))
        if step.operator == "argmax":
            _, result = self._code.fold(width, [first, self._math.number(first, 0.0)], self._larger(x))
        elif step.operator == "pick":
            place = self.number(step.operands[1], INT64(0))
            (result,) = self._code.fold(width, [first], self._picked(x, place))
        elif step.operator == "sum":
            (result,) = self._code.fold(width, [self._math.number(first, 0.0)], self._added(x))
        else:
            self._softmax(value, step)
            return
        self.put_number(value, INT64(0), result)

    def _larger(self, x: Operand) -> Callable[[ir.Value, Values], Values]:
        def body(j: ir.Value, values: Values) -> Values:
            number, (best, place) = self.number(x, j), values
            is_larger = self._b.fcmp_ordered(">", number, best)
            here = self._in_all_rows(self._b.uitofp(j, FLOAT))
            return [self._b.select(is_larger, number, best), self._b.select(is_larger, here, place)]

        return body

    def _picked(self, x: Operand, place: ir.Value) -> Callable[[ir.Value, Values], Values]:
        def body(j: ir.Value, values: Values) -> Values:
            here = self._in_all_rows(self._b.uitofp(j, FLOAT))
            return [self._b.select(self._b.fcmp_ordered("==", place, here), self.number(x, j), values[0])]

        return body

    def _added(self, x: Operand) -> Callable[[ir.Value, Values], Values]:
        return lambda j, values: [self._b.fadd(values[0], self.number(x, j))]

    def _softmax(self, value: int, step: Step) -> None:
        """The exponentials are summed up less the largest number, so that none overflows."""
        b, math, x = self._b, self._math, step.operands[0]
        first = self.number(x, INT64(0))
        largest, _ = self._code.fold(step.width, [first, math.number(first, 0.0)], self._larger(x))

        def add(j: ir.Value, values: Values) -> Values:
            return [b.fadd(values[0], math.exp(b.fsub(self.number(x, j), largest)))]

        (total,) = self._code.fold(step.width, [math.number(first, 0.0)], add)
        logarithm = math.log(total) if step.operator == "log_softmax" else None

        def put(j: ir.Value) -> None:
            less = b.fsub(self.number(x, j), largest)
            result = b.fdiv(math.exp(less), total) if logarithm is None else b.fsub(less, logarithm)
            self.put_number(value, j, result)

        self._code.each(step.width, put)

    @abstractmethod
    def _in_all_rows(self, number: ir.Value) -> ir.Value: ...
