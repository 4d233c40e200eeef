"""Translation of ONNX operators (https://onnx.ai/onnx/operators/, opset 20) into steps: arithmetic and reductions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from shared.engines.row_compiler.constant_folding import axes_of, integers
from shared.engines.row_compiler.row_builder import (
    RowBuilder,
    Tensor,
    Value,
    Weight,
    common_shape,
    require_float,
)
from shared.engines.row_compiler.row_program import Binary, Groups, InGroups, Reduction, Step, Unary
from shared.engines.row_compiler.views import View
from shared.errors import ProgramUnsupported

Inputs = Sequence[Value | None]
Attributes = Mapping[str, Any]
Translation = Callable[[RowBuilder, Inputs, Attributes], Value | tuple[Value, ...]]
"""Translation of a node. A node of several outputs has a tuple; a list is one sequence of tensors."""

_COMPARISONS = frozenset({"equal", "greater", "greater_equal", "less", "less_equal"})
_OF_NUMBERS = _COMPARISONS | {"add", "sub"}
# Operators that accept integers, by the kinds of their operands.
_TOGETHER: Mapping[frozenset[str], frozenset[str]] = {
    frozenset({"number"}): _OF_NUMBERS,
    frozenset({"number", "observed"}): _OF_NUMBERS,
    frozenset({"narrow"}): _COMPARISONS,
}
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # ONNX's defaults of alpha and gamma


def _unary(operator: Unary) -> Translation:
    return lambda build, inputs, _: build.unary(operator, build.tensor(inputs[0]))


def _binary(operator: Binary) -> Callable[[RowBuilder, Inputs, Attributes], Tensor]:
    """Translate an operator of two operands; Max and Min take any number."""

    def translate(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
        tensors = [build.tensor(value) for value in inputs]
        if len(tensors) != 2 and operator not in ("max", "min"):
            raise ProgramUnsupported(f"{operator} of {len(tensors)} operands")
        kinds = {tensor.kind for tensor in tensors}
        if kinds != {"float"} and operator not in _TOGETHER.get(frozenset(kinds), ()):
            raise ProgramUnsupported(f"{operator} of {' and '.join(sorted(kinds))}")
        if operator == "add" and kinds == {"float"}:
            return build.sum(*tensors)
        result = tensors[0]
        for tensor in tensors[1:]:
            result = build.elementwise(operator, [result, tensor])
        return replace(result, kind="truth" if operator in _COMPARISONS else max(kinds))  # observed when any operand is

    return translate


def _logical(operator: Binary) -> Callable[[RowBuilder, Inputs, Attributes], Tensor]:
    """Translate an operator of bools, which are 1 and 0."""

    def translate(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
        tensors = [build.tensor(value) for value in inputs]
        if len(tensors) != 2 or any(tensor.kind != "truth" for tensor in tensors):
            raise ProgramUnsupported("a logical operator of values that are not two bools")
        return replace(build.elementwise(operator, tensors), kind="truth")

    return translate


def _not(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    return _logical("less")(build, [inputs[0], np.array(True)], attributes)


def _is_nan(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = build.tensor(inputs[0])
    require_float(x, "IsNaN")
    return _not(build, [replace(build.elementwise("equal", [x, x]), kind="truth")], attributes)


def _elu(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    return build.unary("elu", build.tensor(inputs[0]), attributes.get("alpha", 1.0), 1.0)


def _selu(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    numbers = (attributes.get("alpha", _SELU[0]), attributes.get("gamma", _SELU[1]))
    return build.unary("elu", build.tensor(inputs[0]), *numbers)


def _leaky_relu(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    return build.unary("leaky_relu", build.tensor(inputs[0]), attributes.get("alpha", 0.01))


def _gelu(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    """Translate both forms (Hendrycks and Gimpel 2016): x / 2 times 1 + erf, or 1 + tanh of a polynomial."""
    x = build.tensor(inputs[0])
    require_float(x, "Gelu")

    def scaled(tensor: Tensor, factor: float) -> Tensor:
        return build.elementwise("mul", [tensor, build.tensor(np.array(factor, np.float32))])

    if attributes.get("approximate", b"none") == b"tanh":
        cube = build.elementwise("mul", [build.elementwise("mul", [x, x]), x])
        inner = build.elementwise("add", [x, scaled(cube, 0.044715)])
        bent = build.unary("tanh", scaled(inner, float(np.sqrt(2 / np.pi))))
    else:
        bent = build.unary("erf", scaled(x, float(np.sqrt(0.5))))
    one = build.tensor(np.array(1, np.float32))
    return build.elementwise("mul", [scaled(x, 0.5), build.elementwise("add", [bent, one])])


def _prelu(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
    x, slope = (build.tensor(value) for value in inputs)
    require_float(x, "PRelu")
    require_float(slope, "PRelu")
    is_below = build.elementwise("less", [x, build.tensor(np.array(0, np.float32))])
    return build.elementwise("where", [is_below, build.elementwise("mul", [x, slope]), x])


def _pow(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
    x, exponent = build.tensor(inputs[0]), inputs[1]
    require_float(x, "Pow")
    power = float(exponent.reshape(())) if isinstance(exponent, np.ndarray) and exponent.size == 1 else 0.0
    if power == 0.5:
        return build.unary("sqrt", x)
    if power not in (1.0, 2.0, 3.0):
        raise ProgramUnsupported("Pow with an exponent other than 0.5, 1, 2 and 3")
    result = x
    for _i in range(int(power) - 1):
        result = build.elementwise("mul", [result, x])
    return result


def _in_groups(build: RowBuilder, x: Tensor, axis: int, operator: InGroups, length: int | None = None) -> Tensor:
    """Add a step along ``axis`` that makes ``length`` numbers of it, by default as many as there are."""
    require_float(x, operator)
    axis = x.axis(axis)
    last = len(x.shape) - 1
    order = [i for i in range(last + 1) if i != axis] + [axis]
    is_last = x.groups(axis).inner == 1
    turned = x if is_last else build.turned(x, order)
    groups = x.groups(axis) if is_last else turned.groups(last)
    made = groups.length if length is None else length
    operand = build.step(Step(operator, (turned.operand,), groups.outer * made, groups))
    if is_last:
        return Tensor(operand, (*x.shape[:axis], made, *x.shape[axis + 1 :]), x.batch)
    result = Tensor(operand, (*turned.shape[:-1], made), turned.batch)
    return build.turned(result, [order.index(i) for i in range(last + 1)])


def _of_axis(operator: InGroups) -> Translation:
    return lambda build, inputs, given: _in_groups(build, build.tensor(inputs[0]), given.get("axis", -1), operator)


def without_axes(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return ``x`` without these axes of length 1."""
    kept = [i for i in range(len(x.shape)) if i not in axes]
    return replace(x, shape=tuple(x.shape[i] for i in kept), batch=x.batch_after(kept))


def _argmax(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = build.tensor(inputs[0])
    if attributes.get("select_last_index", 0):
        raise ProgramUnsupported("ArgMax with select_last_index")
    axis = x.axis(attributes.get("axis", 0))
    found = _in_groups(build, x, axis, "argmax", 1)
    found = replace(found, kind="number", below=(x.shape[axis],) * found.operand.width)
    return found if attributes.get("keepdims", 1) else without_axes(found, [axis])


def _top_k(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> tuple[Value, ...]:
    x, count = build.tensor(inputs[0]), integers(inputs[1])
    if count != [1]:
        raise ProgramUnsupported(f"TopK of {count}")
    axis = x.axis(attributes.get("axis", -1))
    if attributes.get("largest", 1):
        return _reduced(build, x, [axis], "reduce_max"), _argmax(build, [x], {"axis": axis})
    place = _argmax(build, [build.unary("neg", x)], {"axis": axis})
    return _reduced(build, x, [axis], "reduce_min"), place


def _reduced(build: RowBuilder, x: Tensor, axes: Sequence[int], operator: Reduction) -> Tensor:
    """Reduce ``axes``, counted from the start, to length 1: several as one, so that a mean is rounded once."""
    require_float(x, operator)
    shape, batch = tuple(1 if i in axes else n for i, n in enumerate(x.shape)), x.batch
    if len(axes) == 1:
        groups = x.groups(axes[0])
    else:
        order = [*(i for i in range(len(x.shape)) if i not in axes), *axes]
        x = build.turned(x, order)
        length = math.prod(x.shape[len(order) - len(axes) :])
        groups = Groups(x.operand.width // length, length)
    operand = build.step(Step(operator, (x.operand,), groups.outer * groups.inner, groups))
    return Tensor(operand, shape, batch)


def _reduce(operator: Reduction) -> Translation:
    def translate(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
        x = build.tensor(inputs[0])
        axes = sorted({x.axis(axis) for axis in axes_of(inputs, attributes)})
        if not axes:
            raise ProgramUnsupported("a reduction over the axes of all rows")
        result = _reduced(build, x, axes, operator)
        return result if attributes.get("keepdims", 1) else without_axes(result, axes)

    return translate


def _layer_norm(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> tuple[Value, ...]:
    x, vectors = build.tensor(inputs[0]), [build.tensor(value) for value in inputs[1:] if value is not None]
    require_float(x, "LayerNormalization")
    axis = x.axis(attributes.get("axis", -1))
    outer, length, inner = x.groups(axis)
    whole = Groups(outer, length * inner)
    is_of_row = x.batch is None or x.batch.axis < axis
    if not is_of_row or any(not _is_vector(v, whole.length) for v in vectors):
        raise ProgramUnsupported("LayerNormalization over rows, or with computed weights")
    operands = (x.operand, *(vector.operand for vector in vectors))
    numbers = (attributes.get("epsilon", 1e-5),)
    step = Step("layer_norm", operands, x.operand.width, whole, numbers)
    return (replace(x, operand=build.step(step)),)


def _is_vector(x: Tensor, length: int) -> bool:
    return x.operand.packed >= 0 and x.operand.width == length and x.kind == "float"


def _gemm(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    scales = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0))
    if scales != (1.0, 1.0, 0):
        raise ProgramUnsupported(f"Gemm with alpha, beta, transA {scales}")
    is_transposed = bool(attributes.get("transB", 0))
    bias = inputs[2] if len(inputs) > 2 else None
    if isinstance(inputs[1], Weight):
        return build.linear(inputs[0], inputs[1], bias, transposed=is_transposed)
    matrix = build.tensor(inputs[1])
    matrix = build.turned(matrix, (1, 0)) if is_transposed else matrix
    result = _matmul(build, [inputs[0], matrix], {})
    return result if bias is None else build.sum(result, build.tensor(bias))


def _matmul(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
    """Multiply by a weight, or the matrices of a row by one another: ``[..., m, k]`` by ``[..., k, n]``."""
    if isinstance(inputs[1], Weight) and len(inputs[1].shape) == 2:
        return build.linear(inputs[0], inputs[1], None, transposed=False)
    x, y = (build.tensor(value) for value in inputs)
    if min(len(x.shape), len(y.shape)) < 2 or x.shape[-1] != y.shape[-2]:
        raise ProgramUnsupported(f"a matrix product of {x.shape} with {y.shape}")
    require_float(x, "a matrix product")
    require_float(y, "a matrix product")
    if y.batch is None and len(y.shape) == 2:
        if x.batch_axis == len(x.shape) - 1:
            raise ProgramUnsupported("a matrix product across rows")
        step = Step("product", (x.operand, y.operand), x.operand.width // y.shape[0] * y.shape[1], Groups(1, *y.shape))
        return Tensor(build.step(step), (*x.shape[:-1], y.shape[1]), x.batch)
    stacks = []
    for tensor in (x, y):
        if tensor.batch is not None and tensor.batch.axis >= len(tensor.shape) - 2:
            raise ProgramUnsupported("a matrix product across rows")
        stacks.append(replace(tensor, shape=tensor.shape[:-2]))
    stack, batch = common_shape("a matrix product", stacks)
    (rows, length), columns = x.shape[-2:], y.shape[-1]
    outer = 1
    if y.operand.width > length * columns:
        y, outer = build.expanded(y, (*stack, length, columns)), int(np.prod(stack))
    x = build.arranged(x, View.of(x.shape).expanded((*stack, rows, length)), batch)
    shape = (*stack, rows, columns)
    step = Step("product", (x.operand, y.operand), int(np.prod(shape)), Groups(outer, length, columns))
    return Tensor(build.step(step), shape, batch)


def _einsum(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    """Multiply two operands: axes of both that the result keeps are stacks, and those that it drops are summed."""
    left, _, kept = attributes["equation"].decode().replace(" ", "").partition("->")
    pairs = [(build.tensor(value), names) for value, names in zip(inputs, left.split(","), strict=True)]
    pairs.sort(key=lambda pair: pair[0].batch is None)  # the first has the batch
    (x, a), (y, b) = pairs
    stack = [n for n in a if n in b and n in kept]
    summed = [n for n in a if n in b and n not in kept]
    rows, columns = [n for n in a if n not in b], [n for n in b if n not in a]
    sizes = dict(zip(a, x.shape, strict=True)) | dict(zip(b, y.shape, strict=True))
    result = [*stack, *rows, *columns]
    of_rows = [None if t.batch is None else (names[t.batch.axis], t.batch.ahead) for t, names in pairs]
    is_across = of_rows[1] not in (None, of_rows[0])
    if of_rows[0] is not None:
        name = of_rows[0][0]
        is_across = is_across or name not in kept or (name in b and of_rows[1] is None)
    is_plain = [sizes[n] for n in (*a, *b)] == [*x.shape, *y.shape] and sorted(result) == sorted(kept)
    if is_across or not is_plain or any(len(set(names)) < len(names) for names in (a, b)):
        raise ProgramUnsupported(f"Einsum of {left} to {kept}")
    require_float(x, "Einsum")
    require_float(y, "Einsum")
    x = build.turned(x, [a.index(n) for n in (*stack, *rows, *summed)])
    y = build.turned(y, [b.index(n) for n in (*stack, *summed, *columns)])
    count = [math.prod(sizes[n] for n in names) for names in (stack, summed, columns, result)]
    operand = build.step(Step("product", (x.operand, y.operand), count[3], Groups(*count[:3])))
    made = Tensor(operand, tuple(sizes[n] for n in result), x.batch)
    return build.turned(made, [result.index(n) for n in kept])


def _where(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
    condition, chosen, other = (build.tensor(value) for value in inputs)
    if condition.kind != "truth" or {chosen.kind, other.kind} != {"float"}:
        raise ProgramUnsupported("Where of values that are not float32")
    return build.elementwise("where", [condition, chosen, other])


def _clip(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    result: Value = build.tensor(inputs[0])
    for translate, bound in zip((_binary("max"), _binary("min")), inputs[1:], strict=False):
        if bound is not None:
            result = translate(build, [result, bound], attributes)
    return result


ARITHMETIC: Mapping[str, Translation] = {
    **{operator.capitalize(): _unary(operator) for operator in get_args(Unary)},
    **{operator.capitalize(): _binary(operator) for operator in get_args(Binary) if "_" not in operator},
    "And": _logical("min"),
    "ArgMax": _argmax,
    "Clip": _clip,
    "Einsum": _einsum,
    "Elu": _elu,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GreaterOrEqual": _binary("greater_equal"),
    "IsNaN": _is_nan,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "LessOrEqual": _binary("less_equal"),
    "LogSoftmax": _of_axis("log_softmax"),
    "MatMul": _matmul,
    "Not": _not,
    "Or": _logical("max"),
    "PRelu": _prelu,
    "Pow": _pow,
    "ReduceMax": _reduce("reduce_max"),
    "ReduceMean": _reduce("reduce_mean"),
    "ReduceMin": _reduce("reduce_min"),
    "ReduceSum": _reduce("reduce_sum"),
    "Selu": _selu,
    "Softmax": _of_axis("softmax"),
    "TopK": _top_k,
    "Where": _where,
}
"""Translation of each operator that computes numbers."""
