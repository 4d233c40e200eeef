"""Code for steps that work along the middle axis of their groups: reductions, softmax, normalization and choices.

A number of the result is the same in both layouts of rows, to the bit: both add the same numbers in the same order.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from llvmlite import ir

from shared.engines.row_compiler.emitter import INT64, Values
from shared.engines.row_compiler.row_program import Operand, Operator, Step
from shared.engines.row_compiler.vector_math import FLOAT, constant

if TYPE_CHECKING:
    from shared.engines.row_compiler.rows import Rows

_CHAINS = 4  # sums of a row side by side: one addition waits for the one before it
Load = Callable[[ir.Value], ir.Value]
Combine = Callable[[ir.Value, ir.Value], ir.Value]


def emit_in_groups(rows: "Rows", value: int, step: Step) -> None:
    """Emit ``step`` for each of its groups; ``value`` is its result."""
    emit = _EMITTERS[step.operator]
    rows.code.loop(step.groups.outer, lambda group: emit(rows, value, step, group))


def _reduce(rows: "Rows", value: int, step: Step, group: ir.Value) -> None:
    b, x, (_, length, inner) = rows.code.builder, step.operands[0], step.groups
    combine: Combine = {"reduce_max": rows.math.max, "reduce_min": rows.math.min}.get(step.operator, b.fadd)
    begin = b.mul(group, INT64(length * inner))

    def finished(total: ir.Value) -> ir.Value:
        return b.fdiv(total, constant(total.type, length)) if step.operator == "reduce_mean" else total

    def across(i: ir.Value) -> None:
        def load(j: ir.Value) -> ir.Value:
            return rows.load_vector_at(x, b.add(begin, b.mul(j, INT64(inner))), i)

        rows.store_vector_at(value, b.mul(group, INT64(inner)), i, finished(_combined(rows, length, load, combine)))

    if inner == 1:
        total = _combined(rows, length, lambda j: rows.load_number(x, b.add(begin, j)), combine)
        rows.store_number(value, group, finished(total))
    else:
        rows.code.loop(rows.vector_count(inner), across)


def _combined(rows: "Rows", length: int, load: Load, combine: Combine) -> ir.Value:
    """Combine ``load(0)`` to ``load(length - 1)`` in a few chains, and then the chains."""
    b, chains = rows.code.builder, min(_CHAINS, length)
    whole, left = divmod(length, chains)

    def add(i: ir.Value, totals: Values) -> Values:
        begin = b.mul(b.add(i, INT64(1)), INT64(chains))
        return [combine(total, load(b.add(begin, INT64(c)))) for c, total in enumerate(totals)]

    totals = rows.code.fold(whole - 1, [load(INT64(c)) for c in range(chains)], add)
    for c in range(left):
        totals[c] = combine(totals[c], load(INT64(whole * chains + c)))
    while len(totals) > 1:
        totals = [combine(*totals[i : i + 2]) if i + 1 < len(totals) else totals[i] for i in range(0, len(totals), 2)]
    return totals[0]


def _argmax(rows: "Rows", value: int, step: Step, group: ir.Value) -> None:
    b, x, length = rows.code.builder, step.operands[0], step.groups.length
    begin = b.mul(group, INT64(length))

    def larger(j: ir.Value, values: Values) -> Values:
        number, (best, place) = rows.load_number(x, b.add(begin, j)), values
        is_larger = b.fcmp_ordered(">", number, best)
        here = rows.broadcast(b.uitofp(j, FLOAT))
        return [b.select(is_larger, number, best), b.select(is_larger, here, place)]

    first = rows.load_number(x, begin)
    _, place = rows.code.fold(length, [first, constant(first.type, 0.0)], larger)
    rows.store_number(value, group, place)


def _pick(rows: "Rows", value: int, step: Step, group: ir.Value) -> None:
    b, (x, index), length = rows.code.builder, step.operands, step.groups.length
    begin, place = b.mul(group, INT64(length)), rows.load_number(index, group)

    def picked(j: ir.Value, values: Values) -> Values:
        here = rows.broadcast(b.uitofp(j, FLOAT))
        return [b.select(b.fcmp_ordered("==", place, here), rows.load_number(x, b.add(begin, j)), values[0])]

    (result,) = rows.code.fold(length, [rows.load_number(x, begin)], picked)
    rows.store_number(value, group, result)


def _softmax(rows: "Rows", value: int, step: Step, group: ir.Value) -> None:
    """Subtract the largest number before exponentials are summed, so that none overflows."""
    b, math, x, length = rows.code.builder, rows.math, step.operands[0], step.groups.length
    begin, result = b.mul(group, INT64(length)), Operand(step.width, value=value)

    def larger(best: ir.Value, number: ir.Value) -> ir.Value:  # a NaN among the numbers appears in the sum
        return b.select(b.fcmp_ordered(">", number, best), number, best)

    largest = _combined(rows, length, lambda j: rows.load_number(x, b.add(begin, j)), larger)
    less = rows.spread(largest)
    _replace(rows, value, step, begin, lambda i: math.exp(b.fsub(rows.load_vector_at(x, begin, i), less)))
    total = _combined(rows, length, lambda j: rows.load_number(result, b.add(begin, j)), b.fadd)
    if step.operator == "softmax":
        whole = rows.spread(total)
        _replace(rows, value, step, begin, lambda i: b.fdiv(rows.load_vector_at(result, begin, i), whole))
    else:
        logarithm = rows.spread(math.log(total))
        _replace(
            rows,
            value,
            step,
            begin,
            lambda i: b.fsub(b.fsub(rows.load_vector_at(x, begin, i), less), logarithm),
        )


def _layer_norm(rows: "Rows", value: int, step: Step, group: ir.Value) -> None:
    """Subtract the mean before squares are summed, so that digits are lost only to the data itself."""
    b, (x, scale, *bias), length = rows.code.builder, step.operands, step.groups.length
    begin, result = b.mul(group, INT64(length)), Operand(step.width, value=value)
    total = _combined(rows, length, lambda j: rows.load_number(x, b.add(begin, j)), b.fadd)
    mean = rows.spread(b.fdiv(total, constant(total.type, length)))
    _replace(rows, value, step, begin, lambda i: b.fsub(rows.load_vector_at(x, begin, i), mean))

    def square(j: ir.Value) -> ir.Value:
        number = rows.load_number(result, b.add(begin, j))
        return b.fmul(number, number)

    squares = _combined(rows, length, square, b.fadd)
    variance = b.fdiv(squares, constant(squares.type, length))
    deviation = rows.math.sqrt(b.fadd(variance, constant(variance.type, step.numbers[0])))
    inverse = rows.spread(rows.math.reciprocal(deviation))

    def scaled(i: ir.Value) -> ir.Value:
        number = b.fmul(rows.load_vector_at(result, begin, i), inverse)
        number = b.fmul(number, rows.load_weights(INT64(scale.packed), i))
        return b.fadd(number, rows.load_weights(INT64(bias[0].packed), i)) if bias else number

    _replace(rows, value, step, begin, scaled)


def _replace(rows: "Rows", value: int, step: Step, begin: ir.Value, vector: Load) -> None:
    """Store ``vector(i)`` for each vector of the group that begins at ``begin``."""
    count = rows.vector_count(step.groups.length)
    rows.code.loop(count, lambda i: rows.store_vector_at(value, begin, i, vector(i)))


_EMITTERS: Mapping[Operator, Callable[["Rows", int, Step, ir.Value], None]] = {
    **dict.fromkeys(("reduce_max", "reduce_mean", "reduce_min", "reduce_sum"), _reduce),
    "argmax": _argmax,
    "layer_norm": _layer_norm,
    "log_softmax": _softmax,
    "pick": _pick,
    "softmax": _softmax,
}
