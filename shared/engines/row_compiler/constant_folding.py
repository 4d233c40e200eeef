"""Evaluation of those parts of a graph that no row enters: constants, and the shapes that exporters compute."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import ProgramUnsupported

Constant = np.ndarray[Any, Any]

BATCH = -(2**62)
"""Stands for the batch size among the integers of a shape."""
MOST_NUMBERS = 4096
"""Largest size of a constant; larger ones belong among the weights."""
_CONSTANT_DTYPES = {
    f"value_{kind}": dtype
    for kind, dtype in (("float", np.float32), ("floats", np.float32), ("int", np.int64), ("ints", np.int64))
}


def fold_constant(operator: str, inputs: Sequence[Constant], attributes: Mapping[str, Any]) -> Constant | None:
    """Return the operator's result, or None for an operator that is not folded. Raises ProgramUnsupported."""
    if operator not in _OPERATORS:
        return None
    result = np.asarray(_OPERATORS[operator](inputs, attributes))  # numpy returns scalars for zero dimensions
    if result.size > MOST_NUMBERS:
        raise ProgramUnsupported(f"{operator} makes {result.size} numbers; at most {MOST_NUMBERS} are supported")
    return result


def integers(value: object, *, may_be_batch: bool = False) -> list[int]:
    """Return the integers of a constant. Raises ProgramUnsupported for anything else, and for the batch size."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise ProgramUnsupported("a shape, an axis or an index is not a constant")
    if not may_be_batch and (value == BATCH).any():
        raise ProgramUnsupported("an axis or an index depends on the batch size")
    return [int(number) for number in value.reshape(-1)]


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
    if (inputs[0] == BATCH).any() and dtype != np.int64:
        raise ProgramUnsupported("arithmetic on the batch size")
    return inputs[0].astype(dtype)


def _range(inputs: Sequence[Constant], _: Mapping[str, Any]) -> Constant:
    start, limit, step = (number.item() for number in inputs)
    if BATCH in (start, limit, step) or abs(limit - start) > MOST_NUMBERS * abs(step):
        raise ProgramUnsupported(f"Range from {start} to {limit}")
    return np.arange(start, limit, step).astype(inputs[0].dtype)


_OPERATORS: Mapping[str, Callable[[Sequence[Constant], Mapping[str, Any]], Constant]] = {
    "Constant": _constant,
    "Cast": _cast,
    "Concat": lambda inputs, attributes: np.concatenate(inputs, axis=attributes["axis"]),
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0)),
    "Range": _range,
    "Reshape": lambda inputs, _: inputs[0].reshape(integers(inputs[1])),
    "Squeeze": lambda inputs, attributes: np.squeeze(inputs[0], axes_of(inputs, attributes) or None),
    "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], axes_of(inputs, attributes)),
}
