"""What in a graph can be worked out without its rows: constants, and the shapes that exporters compute with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import ProgramUnsupported

Known = np.ndarray[Any, Any]

BATCH = -(2**62)
"""Stands for the batch's size among the whole numbers that shapes are computed with."""
MOST_NUMBERS = 4096
"""In what is worked out: more belong among the weights."""
_CONSTANT_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def work_out(operator: str, inputs: Sequence[Known], attributes: Mapping[str, Any]) -> Known | None:
    """The result where it is an operator that shapes are computed with; else None. Raises ProgramUnsupported."""
    if operator not in _OPERATORS:
        return None
    result = np.asarray(_OPERATORS[operator](inputs, attributes))  # numpy makes scalars of what has no dimension
    if result.size > MOST_NUMBERS:
        raise ProgramUnsupported(f"{operator} makes {result.size} numbers")
    return result


def integers(value: object, *, may_be_batch: bool = False) -> list[int]:
    """``value``, which has to be known, as whole numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise ProgramUnsupported("a shape, an axis or a place that is computed from what is not known beforehand")
    if not may_be_batch and (value == BATCH).any():
        raise ProgramUnsupported("an axis or a place that depends on the batch's size")
    return [int(number) for number in value.reshape(-1)]


def axes_of(inputs: Sequence[object], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes of an operator, which older graphs have among its attributes."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(integers(inputs[1]))
    return tuple(attributes.get("axes", ()))


def dtype_of(element_type: int) -> np.dtype[Any]:
    """numpy's name for one of ONNX's dtypes."""
    import onnx

    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))
    except KeyError as error:
        raise ProgramUnsupported(f"dtype {element_type}") from error


def _constant(_: Sequence[Known], attributes: Mapping[str, Any]) -> Known:
    import onnx

    ((name, value),) = attributes.items()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if name not in _CONSTANT_DTYPES:
        raise ProgramUnsupported(f"Constant of {name}")
    return np.array(value, _CONSTANT_DTYPES[name])


def _cast(inputs: Sequence[Known], attributes: Mapping[str, Any]) -> Known:
    dtype = dtype_of(attributes["to"])
    if (inputs[0] == BATCH).any() and dtype != np.int64:
        raise ProgramUnsupported("the batch's size as a number to compute with")
    return inputs[0].astype(dtype)


def _range(inputs: Sequence[Known], _: Mapping[str, Any]) -> Known:
    start, limit, step = (number.item() for number in inputs)
    if BATCH in (start, limit, step) or abs(limit - start) > MOST_NUMBERS * abs(step):
        raise ProgramUnsupported(f"Range from {start} to {limit}")
    return np.arange(start, limit, step).astype(inputs[0].dtype)


_OPERATORS: Mapping[str, Callable[[Sequence[Known], Mapping[str, Any]], Known]] = {
    "Constant": _constant,
    "Cast": _cast,
    "Concat": lambda inputs, attributes: np.concatenate(inputs, axis=attributes["axis"]),
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0)),
    "Range": _range,
    "Reshape": lambda inputs, _: inputs[0].reshape(integers(inputs[1])),
    "Squeeze": lambda inputs, attributes: np.squeeze(inputs[0], axes_of(inputs, attributes) or None),
    "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], axes_of(inputs, attributes)),
}
