"""Folding of constants, and of shapes that contain the batch size."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from shared.engines.row_compiler.constant_folding import (
    BATCH,
    MOST_NUMBERS,
    axes_of,
    batches,
    dtype_of,
    fold_constant,
    has_batch,
    integers,
)
from shared.errors import ProgramUnsupported


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "expected"),
    [
        ("Constant", [], {"value_float": 0.5}, np.float32(0.5)),
        ("Constant", [], {"value_floats": [0.5, 2.0]}, np.array([0.5, 2.0], np.float32)),
        ("Constant", [], {"value_floats": []}, np.array([], np.float32)),
        ("Constant", [], {"value_int": 3}, np.int64(3)),
        ("Constant", [], {"value_ints": []}, _ints()),
        ("Constant", [], {"value": numpy_helper.from_array(np.array([True, False]))}, np.array([True, False])),
        ("Cast", [_ints(1, 0)], {"to": TensorProto.BOOL}, np.array([True, False])),
        ("Cast", [_ints(BATCH, 3)], {"to": TensorProto.INT64}, _ints(BATCH, 3)),
        ("Concat", [_ints(BATCH), _ints(2, 3)], {"axis": 0}, _ints(BATCH, 2, 3)),
        ("Gather", [_ints(BATCH, 3), np.array(1)], {}, np.int64(3)),
        ("Gather", [_ints(BATCH, 3), _ints(0)], {"axis": 0}, _ints(BATCH)),
        ("Add", [_ints(1, 2), np.array(3)], {}, _ints(4, 5)),
        ("CastLike", [np.array(2), np.float32(0)], {}, np.float32(2)),
        ("Div", [_ints(7, 8), _ints(2)], {}, _ints(3, 4)),
        ("Div", [np.float32(1), np.float32(4)], {}, np.float32(0.25)),
        ("Expand", [np.float32(1), _ints(2, 3)], {}, np.ones((2, 3), np.float32)),
        ("Identity", [_ints(BATCH)], {}, _ints(BATCH)),
        ("Mul", [np.array(BATCH), np.array(4)], {}, np.array(4 * BATCH)),
        ("Mul", [np.array(4), np.array(BATCH)], {}, np.array(4 * BATCH)),
        ("Mul", [np.float32(0.5), np.float32(4)], {}, np.float32(2)),
        ("ReduceProd", [_ints(2, 3)], {"keepdims": 0}, np.array(6)),
        ("ReduceProd", [_ints(2, 3), _ints(0)], {}, _ints(6)),
        ("Slice", [_ints(BATCH, 3, 5), _ints(-(2**63)), _ints(-1)], {}, _ints(BATCH, 3)),
        ("Slice", [_ints(BATCH, 3, 5), _ints(2), _ints(-9), _ints(0), _ints(-1)], {}, _ints(5, 3, BATCH)),
        ("Sqrt", [np.float32(0.25)], {}, np.float32(0.5)),
        ("Sub", [_ints(5), _ints(2)], {}, _ints(3)),
        ("Range", [np.array(2), np.array(7), np.array(2)], {}, _ints(2, 4, 6)),
        ("Reshape", [_ints(BATCH, 3), _ints(2, 1)], {}, _ints(BATCH, 3)[:, None]),
        ("Squeeze", [_ints(BATCH)], {}, np.int64(BATCH)),
        ("Squeeze", [_ints(BATCH), _ints(0)], {}, np.int64(BATCH)),
        ("Squeeze", [_ints(BATCH)], {"axes": [0]}, np.int64(BATCH)),
        ("Unsqueeze", [np.array(BATCH), _ints(0)], {}, _ints(BATCH)),
        ("Equal", [_ints(1, 2), _ints(2)], {}, np.array([False, True])),
        ("Trilu", [_ints(1, 2, 3, 4).reshape(2, 2)], {"upper": 0}, _ints(1, 0, 3, 4).reshape(2, 2)),
        ("Trilu", [_ints(1, 2, 3, 4).reshape(2, 2), np.array(1)], {}, _ints(0, 2, 0, 0).reshape(2, 2)),
        ("Where", [np.array([True, False]), np.float32(2), np.float32(3)], {}, np.array([2, 3], np.float32)),
    ],
)
def test_constants_are_folded(
    operator: str, inputs: list[np.ndarray], attributes: dict[str, Any], expected: np.ndarray
) -> None:
    found = fold_constant(operator, inputs, attributes)
    assert isinstance(found, np.ndarray), "also where it has no dimension"
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_other_operators_are_left_to_steps() -> None:
    assert fold_constant("Tanh", [np.float32(1)], {}) is None


def test_a_constant_of_each_row_is_left_to_steps() -> None:
    for shape in (_ints(BATCH, 2), _ints(MOST_NUMBERS, 2)):
        assert fold_constant("Expand", [np.float32(1), shape], {}) is None


def test_multiples_of_the_batch_size_are_told_from_other_numbers() -> None:
    assert [batches(n) for n in (BATCH, 12 * BATCH)] == [1, 12]
    assert not any(batches(n) for n in (BATCH + 1, 0, -1, 7, -(2**63), -(2**62), 2**40))
    assert has_batch(_ints(3, 2 * BATCH))
    assert not has_batch(_ints(3, -(2**63), 2**63 - 1))
    assert not has_batch(np.array([-1e30]))


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("Constant", [], {"value_string": b"12"}),
        ("Cast", [_ints(BATCH)], {"to": TensorProto.FLOAT}),
        ("Cast", [_ints(BATCH)], {"to": TensorProto.INT32}),
        ("Cast", [_ints(1)], {"to": 999}),
        ("Range", [np.array(0), np.array(BATCH), np.array(1)], {}),
        ("Range", [np.array(BATCH), np.array(0), np.array(1)], {}),
        ("Range", [np.array(0), np.array(2**40), np.array(1)], {}),
        ("Range", [np.array(0), np.array(1), np.array(0)], {}),
        ("Add", [_ints(BATCH), _ints(1)], {}),
        ("Div", [_ints(BATCH), _ints(2)], {}),
        ("Div", [_ints(-3), _ints(2)], {}),
        ("Div", [_ints(3), _ints(0)], {}),
        ("Mul", [_ints(BATCH), _ints(BATCH)], {}),
        ("ReduceProd", [_ints(BATCH, 2)], {}),
        ("Mul", [_ints(BATCH), _ints(-1)], {}),
        ("Mul", [_ints(BATCH), _ints(2**20)], {}),
        ("Mul", [_ints(2**20), _ints(-(2**20))], {}),
        ("Concat", [np.zeros(MOST_NUMBERS), np.zeros(1)], {"axis": 0}),
        ("Gather", [_ints(*range(9)), np.zeros(MOST_NUMBERS + 1, np.int64)], {}),
        ("Reshape", [_ints(1, 2), _ints(BATCH)], {}),
        ("Unsqueeze", [np.array(1), _ints(BATCH)], {}),
    ],
)
def test_unsupported_constants_are_refused(operator: str, inputs: list[np.ndarray], attributes: dict[str, Any]) -> None:
    with pytest.raises(ProgramUnsupported):
        fold_constant(operator, inputs, attributes)


def test_batch_size_cannot_be_an_axis_or_an_index() -> None:
    assert integers(_ints(BATCH, 2), may_be_batch=True) == [BATCH, 2]
    for read in (integers, lambda value: axes_of([None, value], {})):
        with pytest.raises(ProgramUnsupported, match="batch size"):
            read(_ints(BATCH))
    for value in (None, np.array([0.5]), "text"):
        with pytest.raises(ProgramUnsupported, match="not a constant"):
            integers(value)


def test_dtypes_go_by_onnxs_numbers() -> None:
    assert dtype_of(TensorProto.UINT8) == np.uint8
    with pytest.raises(ProgramUnsupported, match="dtype 0"):
        dtype_of(TensorProto.UNDEFINED)
