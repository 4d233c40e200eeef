"""Translation of ONNX operators (https://onnx.ai/onnx/operators/, opset 20) into steps of a row program."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np

from shared.engines.row_compiler.constant_folding import BATCH, axes_of, dtype_of, integers
from shared.engines.row_compiler.row_builder import RowBuilder, Tensor, Value, Weight, kind_of, require_float
from shared.engines.row_compiler.row_program import Binary, Operator, Unary
from shared.errors import ProgramUnsupported

Inputs = Sequence[Value | None]
Attributes = Mapping[str, Any]
Translation = Callable[[RowBuilder, Inputs, Attributes], Value]

_TO_THE_END = 2**31
_COMPARISONS = frozenset({"equal", "greater", "less"})
_OF_NUMBERS = _COMPARISONS | {"add", "sub"}
# Operators that accept integers, by the kinds of their operands.
_TOGETHER: Mapping[frozenset[str], frozenset[str]] = {
    frozenset({"number"}): _OF_NUMBERS,
    frozenset({"number", "observed"}): _OF_NUMBERS,
    frozenset({"narrow"}): _COMPARISONS,
}
# Casts among these are exact for the values of a row program.
_EXACT = frozenset({"float32", "int64", "int32", "bool"})


def _unary(operator: Operator) -> Translation:
    return lambda build, inputs, _: build.unary(operator, build.tensor(inputs[0]))


def _binary(operator: Operator) -> Translation:
    """Translate an operator of two operands; Max and Min take any number."""

    def translate(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
        tensors = [build.tensor(value) for value in inputs]
        if len(tensors) != 2 and operator not in ("max", "min"):
            raise ProgramUnsupported(f"{operator} of {len(tensors)} operands")
        kinds = {tensor.kind for tensor in tensors}
        if kinds != {"float"} and operator not in _TOGETHER.get(frozenset(kinds), ()):
            raise ProgramUnsupported(f"{operator} of {' and '.join(sorted(kinds))}")
        result = tensors[0]
        for tensor in tensors[1:]:
            result = build.elementwise(operator, [result, tensor])
        return replace(result, kind="truth" if operator in _COMPARISONS else max(kinds))  # observed when any operand is

    return translate


def _of_row(operator: Operator) -> Translation:
    return lambda build, inputs, given: build.unary(operator, build.row_vectors(inputs[0], given.get("axis", -1)))


def _gemm(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    scales = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0))
    if scales != (1.0, 1.0, 0):
        raise ProgramUnsupported(f"Gemm with alpha, beta, transA {scales}")
    bias = inputs[2] if len(inputs) > 2 else None
    return build.linear(inputs[0], inputs[1], bias, transposed=bool(attributes.get("transB", 0)))


def _argmax(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = build.row_vectors(inputs[0], attributes.get("axis", 0))
    require_float(x, "ArgMax")
    if attributes.get("select_last_index", 0):
        raise ProgramUnsupported("ArgMax with select_last_index")
    shape = (1,) if attributes.get("keepdims", 1) else ()
    return Tensor(build.step("argmax", [x.operand], 1), shape, batched=True, kind="number", below=(x.operand.width,))


def _gather_elements(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, index = build.row_vectors(inputs[0], attributes.get("axis", 0)), inputs[1]
    if not isinstance(index, Tensor) or index.shape != (1,):
        raise ProgramUnsupported("GatherElements at more than one index")
    if not 0 < max(index.below, default=0) <= x.operand.width:
        raise ProgramUnsupported("GatherElements at an index that may be out of range")
    return Tensor(build.step("pick", [x.operand, index.operand], 1), (1,), batched=True, kind=x.kind)


def _reduce_sum(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = axes_of(inputs, attributes)
    if len(axes) != 1:
        raise ProgramUnsupported(f"ReduceSum over the axes {axes}")
    x = build.row_vectors(inputs[0], axes[0])
    require_float(x, "ReduceSum")
    shape = (1,) if attributes.get("keepdims", 1) else ()
    return Tensor(build.step("sum", [x.operand], 1), shape, batched=True)


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


def _cast(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    """Cast integers and bools to floats as they are; casts of floats to other kinds are refused."""
    x, dtype = build.tensor(inputs[0]), dtype_of(attributes["to"])
    kind = kind_of(dtype)
    if x.kind in ("float", "other") and kind not in ("float", "other"):
        raise ProgramUnsupported(f"Cast of floats to {dtype}")
    if kind == "truth" and x.kind != "truth":
        raise ProgramUnsupported("Cast of numbers to bool")
    if str(dtype) not in _EXACT:
        if (x.kind, str(dtype)) != ("float", "float64"):
            raise ProgramUnsupported(f"Cast to {dtype}")
        return replace(x, kind="other")  # usable only as an output
    return replace(x, kind="observed" if (x.kind, kind) == ("observed", "number") else kind)


def _cast_like(_: RowBuilder, inputs: Inputs, __: Attributes) -> Value:
    x, like = inputs[0], inputs[1]
    if isinstance(x, Weight) and isinstance(like, Tensor) and like.kind == "float":
        return x
    raise ProgramUnsupported("CastLike")


def _shape(_: RowBuilder, inputs: Inputs, attributes: Attributes) -> Value:
    value = inputs[0]
    if isinstance(value, Tensor):
        shape = (BATCH, *value.shape) if value.batched else value.shape
    elif isinstance(value, Weight | np.ndarray):
        shape = value.shape
    else:
        raise ProgramUnsupported("Shape of a sequence")
    return np.array(shape, np.int64)[attributes.get("start", 0) : attributes.get("end")]


def _reshape(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, target = build.tensor(inputs[0]), integers(inputs[1], may_be_batch=True)
    keeps_rows = target and (target[0] in (BATCH, -1) or (target[0] == 0 and not attributes.get("allowzero", 0)))
    if not x.batched or not keeps_rows:
        raise ProgramUnsupported(f"Reshape to {target}, which mixes rows")
    return replace(x, shape=_with_width(target[1:], x.operand.width))


def _with_width(target: Sequence[int], width: int) -> tuple[int, ...]:
    """Return the shape ``target`` of ``width`` numbers, with one -1 replaced by the remaining size."""
    known = math.prod(n for n in target if n != -1)
    if list(target).count(-1) == 1 and known > 0 and width % known == 0:
        target = [width // known if n == -1 else n for n in target]
    if math.prod(target) != width or any(n < 1 for n in target):
        raise ProgramUnsupported(f"Reshape of {width} numbers in a row to {list(target)}, which mixes rows")
    return tuple(target)


def _flatten(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = build.tensor(inputs[0])
    if not x.batched or attributes.get("axis", 1) != 1:
        raise ProgramUnsupported("Flatten that mixes rows")
    return replace(x, shape=(x.operand.width,))


def _squeeze(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, axes = build.tensor(inputs[0]), axes_of(inputs, attributes)
    dimensions = [BATCH, *x.shape] if x.batched else list(x.shape)
    places = {axis % len(dimensions) for axis in axes}
    if not places or any(dimensions[place] != 1 for place in places):
        raise ProgramUnsupported(f"Squeeze of the axes {axes}")
    kept = tuple(n for i, n in enumerate(dimensions) if i not in places)
    return replace(x, shape=kept[1:] if x.batched else kept)


def _unsqueeze(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, axes = build.tensor(inputs[0]), axes_of(inputs, attributes)
    rank = len(x.shape) + x.batched + len(axes)
    places = {axis % rank for axis in axes}
    if x.batched and 0 in places:
        raise ProgramUnsupported("Unsqueeze before the rows")
    rest = iter([BATCH, *x.shape] if x.batched else x.shape)
    shape = tuple(1 if place in places else next(rest) for place in range(rank))
    return replace(x, shape=shape[1:] if x.batched else shape)


def _slice(build: RowBuilder, inputs: Inputs, _: Attributes) -> Tensor:
    x = build.tensor(inputs[0])
    starts, ends = integers(inputs[1]), integers(inputs[2], may_be_batch=True)
    axes = integers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = integers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step != 1:
            raise ProgramUnsupported("Slice with steps")
        if axis == 0 and start == 0 and (end >= _TO_THE_END or end == BATCH):
            continue  # all rows
        if end == BATCH:
            raise ProgramUnsupported("Slice of each row up to the batch size")
        x = build.slice(build.row_vectors(x, axis), *slice(start, end).indices(x.operand.width)[:2])
    return x


def _split_to_sequence(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> list[Tensor]:
    x, lengths = build.row_vectors(inputs[0], attributes.get("axis", 0)), inputs[1] if len(inputs) > 1 else None
    width = x.operand.width
    if lengths is None or not attributes.get("keepdims", 1):
        raise ProgramUnsupported("SplitToSequence into single numbers")
    numbers = integers(lengths)
    is_one_length = isinstance(lengths, np.ndarray) and not lengths.ndim
    ends = [*range(numbers[0], width, numbers[0]), width] if is_one_length else np.cumsum(numbers).tolist()
    if ends[-1] != width:
        raise ProgramUnsupported(f"SplitToSequence of {width} numbers into {numbers}")
    return [build.slice(x, start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _sequence_at(_: RowBuilder, inputs: Inputs, __: Attributes) -> Tensor:
    parts, (place,) = inputs[0], integers(inputs[1])
    if not isinstance(parts, list) or not -len(parts) <= place < len(parts):
        raise ProgramUnsupported("SequenceAt of an index that is out of range")
    return parts[place]


def _gather(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, indices = build.row_vectors(inputs[0], attributes.get("axis", 0)), inputs[1]
    if not isinstance(indices, np.ndarray) or indices.ndim:
        raise ProgramUnsupported("Gather at more than one index")
    (place,) = integers(indices)
    place += x.operand.width if place < 0 else 0
    return replace(build.slice(x, place, place + 1), shape=())


def _concat(build: RowBuilder, inputs: Inputs, attributes: Attributes) -> Tensor:
    tensors = [build.row_vectors(value, attributes["axis"]) for value in inputs]
    if len({tensor.kind for tensor in tensors}) != 1:
        raise ProgramUnsupported("Concat of several dtypes")
    width = sum(tensor.operand.width for tensor in tensors)
    below = sum((tensor.below for tensor in tensors), ()) if all(tensor.below for tensor in tensors) else ()
    operand = build.step("concat", [tensor.operand for tensor in tensors], width)
    return Tensor(operand, (width,), batched=True, kind=tensors[0].kind, below=below)


TRANSLATIONS: Mapping[str, Translation] = {
    **{operator.capitalize(): _unary(operator) for operator in get_args(Unary)},
    **{operator.capitalize(): _binary(operator) for operator in get_args(Binary)},
    "ArgMax": _argmax,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "Identity": lambda _, inputs, __: cast(Value, inputs[0]),
    "LogSoftmax": _of_row("log_softmax"),
    "MatMul": lambda build, inputs, _: build.linear(inputs[0], inputs[1], None, transposed=False),
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "SequenceAt": _sequence_at,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _of_row("softmax"),
    "SplitToSequence": _split_to_sequence,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
