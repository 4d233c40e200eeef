"""Evaluation of those parts of a graph that no row enters: constants, and the shapes that exporters compute."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import ProgramUnsupported

Constant = np.ndarray[Any, Any]

BATCH = -(2**40)
"""Stands for the batch size among the integers of a shape, and a small multiple of it for that multiple."""
_MOST_BATCHES = 2**16
MOST_NUMBERS = 4096
"""Largest size of a constant; larger ones belong among the weights."""
_CONSTANT_DTYPES = {
    f"value_{kind}": dtype
    for kind, dtype in (("float", np.float32), ("floats", np.float32), ("int", np.int64), ("ints", np.int64))
}


def fold_constant(operator: str, inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant | None:
    """Return the operator's result, or None when it is not folded. Raises ProgramUnsupported."""
    found = _OPERATORS[operator](inputs, attributes) if operator in _OPERATORS else None
    if found is None:
        return None
    result = np.asarray(found)  # numpy returns scalars for zero dimensions
    if result.size > MOST_NUMBERS:
        raise ProgramUnsupported(f"{operator} makes {result.size} numbers; at most {MOST_NUMBERS} are supported")
    return result


def integers(value: object, *, may_be_batch: bool = False) -> list[int]:
    """Return the integers of a constant. Raises ProgramUnsupported for anything else, and for the batch size."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise ProgramUnsupported("a shape, an axis or an index is not a constant")
    if not may_be_batch and has_batch(value):
        raise ProgramUnsupported("an axis or an index depends on the batch size")
    return [int(number) for number in value.reshape(-1)]


def batches(number: int) -> int:
    """Return ``n`` for ``n`` times the batch size, and 0 for any other number."""
    multiple, rest = divmod(number, BATCH)
    return multiple if rest == 0 and 0 < multiple <= _MOST_BATCHES else 0


def has_batch(value: Constant) -> bool:
    """Return True when ``value`` contains the batch size or a multiple of it."""
    return value.dtype.kind in "iu" and any(batches(int(number)) for number in value[value <= BATCH])


def axes_of(inputs: Sequence[object], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Return an operator's axes: its second input, or in older graphs an attribute."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(integers(inputs[1]))
    return tuple(attributes.get("axes", ()))


def dtype_of(element_type: int) -> np.dtype[Any]:
    """Return the numpy dtype of an ONNX ``TensorProto.DataType``. Raises ProgramUnsupported."""
    import onnx

    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError as error:
        raise ProgramUnsupported(f"dtype {element_type}") from error


def _constant(_: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    import onnx

    ((name, value),) = attributes.items()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if name not in _CONSTANT_DTYPES:
        raise ProgramUnsupported(f"Constant of {name}")
    return np.array(value, _CONSTANT_DTYPES[name])


def _cast(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    dtype = dtype_of(attributes["to"])
    if has_batch(inputs[0]) and dtype != np.int64:
        raise ProgramUnsupported("arithmetic on the batch size")
    return inputs[0].astype(dtype)


def _range(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant:
    start, limit, step = (number.item() for number in inputs)
    if any(map(has_batch, inputs)) or abs(limit - start) > MOST_NUMBERS * abs(step):
        raise ProgramUnsupported(f"Range from {start} to {limit}")
    return np.arange(start, limit, step).astype(inputs[0].dtype)


def _multiply(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant:
    """Multiply numbers, at most one of which is the batch size."""
    x, y = inputs
    _check_size(x, y)
    result: Constant = np.multiply(x, y)
    counts, factor = (x, y) if has_batch(x) else (y, x)
    if has_batch(counts) != has_batch(result) or (has_batch(counts) and (has_batch(factor) or (factor < 1).any())):
        raise ProgramUnsupported("arithmetic on the batch size")
    return result


def _plain(function: Callable[..., Constant]) -> Callable[[Sequence[Constant], Mapping[str, Any]], Constant]:
    """Return a function of numbers that are not the batch size."""

    def fold(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant:
        if any(map(has_batch, inputs)):
            raise ProgramUnsupported("arithmetic on the batch size")
        _check_size(*inputs)
        return function(*inputs)

    return fold


def _check_size(*inputs: Constant) -> None:
    size = math.prod(np.broadcast_shapes(*(each.shape for each in inputs)))
    if size > MOST_NUMBERS:
        raise ProgramUnsupported(f"a constant of {size} numbers; at most {MOST_NUMBERS} are supported")


def _divide(x: Constant, y: Constant) -> Constant:
    if x.dtype.kind == "f":
        return np.divide(x, y)
    if (x < 0).any() or (y < 1).any():
        raise ProgramUnsupported("a quotient of integers that are not positive")
    return np.floor_divide(x, y)


def _product(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    """Multiply the numbers along axes, by default all."""
    if has_batch(inputs[0]):
        raise ProgramUnsupported("arithmetic on the batch size")
    axes = axes_of(inputs, attributes) or None
    return np.asarray(np.prod(inputs[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1))), inputs[0].dtype)


def _slice(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant:
    starts, ends = integers(inputs[1]), integers(inputs[2])
    axes = integers(inputs[3]) if len(inputs) > 3 else list(range(len(starts)))
    steps = integers(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    cuts = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return inputs[0][tuple(cuts)]


def _triangle(inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant:
    (offset,) = integers(inputs[1]) if len(inputs) > 1 else (0,)
    return (np.triu if attributes.get("upper", 1) else np.tril)(inputs[0], offset)


def _expand(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant | None:
    """Return None for a shape with the batch size, which no constant has."""
    if has_batch(inputs[1]):
        return None
    shape = np.broadcast_shapes(inputs[0].shape, tuple(integers(inputs[1])))
    return None if math.prod(shape) > MOST_NUMBERS else np.broadcast_to(inputs[0], shape)


_OPERATORS: Mapping[str, Callable[[Sequence[Constant], Mapping[str, Any]], Constant | None]] = {
    "Add": _plain(np.add),
    "Cast": _cast,
    "CastLike": lambda inputs, _: inputs[0].astype(inputs[1].dtype),
    "Concat": lambda inputs, attributes: np.concatenate(inputs, axis=attributes["axis"]),
    "Constant": _constant,
    "Div": _plain(_divide),
    "Equal": _plain(np.equal),
    "Expand": _expand,
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0)),
    "Identity": lambda inputs, _: inputs[0],
    "Mul": _multiply,
    "Range": _range,
    "ReduceProd": _product,
    "Reshape": lambda inputs, _: inputs[0].reshape(integers(inputs[1])),
    "Slice": _slice,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": lambda inputs, attributes: np.squeeze(inputs[0], axes_of(inputs, attributes) or None),
    "Sub": _plain(np.subtract),
    "Trilu": _triangle,
    "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], axes_of(inputs, attributes)),
    "Where": _plain(np.where),
}
