"""Each operator against ONNX Runtime, at batch sizes that take every path through the compiled code."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from tests.support.small_graphs import Spec, assert_equals_onnxruntime, graph, node


class Case(NamedTuple):
    """Description of a graph; its result is ``y``, or those in ``outputs``."""

    nodes: Sequence[onnx.NodeProto]
    y: Spec = ("float32", (5,))
    x: Spec = ("float32", (5,))
    more: Mapping[str, Spec] = {}
    weights: Mapping[str, np.ndarray] = {}
    constants: Mapping[str, np.ndarray] = {}


def _floats(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_WIDE = 37  # more than two vectors, and no multiple of any tile
_PLACES = {"zero": np.array(0), "last": np.array(-1), "axis": _ints(1), "two": _ints(2), "four": _ints(4)}

CASES: dict[str, Case] = {
    **{name: Case([node(name, "x", "y")]) for name in ("Abs", "Exp", "Neg", "Reciprocal", "Relu", "Sigmoid", "Tanh")},
    "Identity": Case([node("Identity", "x", "y")]),
    "Log": Case([node("Exp", "x", "e"), node("Log", "e", "y")]),
    "Sqrt": Case([node("Abs", "x", "a"), node("Sqrt", "a", "y")]),
    "of many numbers": Case([node("Tanh", "x", "y")], ("float32", (_WIDE,)), ("float32", (_WIDE,))),
    "of no dimension": Case([node("Tanh", "x", "y")], ("float32", ()), ("float32", ())),
    "of two dimensions": Case([node("Tanh", "x", "y")], ("float32", (2, 3)), ("float32", (2, 3))),
    **{
        name: Case([node(name, "x z", "y")], more={"z": ("float32", (5,))})
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")
    },
    "one column with many": Case([node("Sub", "z x", "y")], more={"z": ("float32", (1,))}),
    "one weight with many": Case([node("Sub", "w x", "y")], weights={"w": _floats(1)}),
    "a weight of no dimension": Case([node("Mul", "x w", "y")], weights={"w": _floats()}),
    "a weight for each number": Case([node("Mul", "x w", "y")], weights={"w": _floats(5)}),
    "a weight with a batch dimension of 1": Case([node("Mul", "x w", "y")], weights={"w": _floats(1, 5)}),
    "two weights": Case([node("Add", "w v", "s"), node("Mul", "x s", "y")], weights={"w": _floats(5), "v": _floats(1)}),
    "a constant": Case([node("Div", "x c", "y")], constants={"c": np.array([1, 2, 4, 8, 3], np.float32)}),
    "the same operand twice": Case([node("Mul", "x x", "y")]),
    "Max of three": Case([node("Max", "x z w", "y")], more={"z": ("float32", (5,))}, weights={"w": _floats(5)}),
    "Max of one": Case([node("Max", "x", "m"), node("Neg", "m", "y")]),
    "Clip": Case([node("Clip", "x l h", "y")], constants={"l": np.float32([-0.5])[0], "h": np.float32([0.25])[0]}),
    "Clip below": Case([node("Clip", "x l", "y")], constants={"l": np.float32([-0.5])[0]}),
    "Clip above": Case([node("Clip", "x _ h", "y")], constants={"h": np.float32([0.25])[0]}),
    "Gemm": Case([node("Gemm", "x w b", "y")], ("float32", (3,)), weights={"w": _floats(5, 3), "b": _floats(3)}),
    "Gemm, transposed": Case(
        [node("Gemm", "x w b", "y", transB=1)], ("float32", (3,)), weights={"w": _floats(3, 5), "b": _floats(3)}
    ),
    "Gemm without a bias": Case([node("Gemm", "x w", "y")], ("float32", (3,)), weights={"w": _floats(5, 3)}),
    "Gemm of many numbers": Case(
        [node("Gemm", "x w b", "y", transB=1)],
        ("float32", (99,)),
        ("float32", (_WIDE,)),
        weights={"w": _floats(99, _WIDE), "b": _floats(99)},
    ),
    "Gemm to one number": Case(
        [node("Gemm", "x w b", "y")], ("float32", (1,)), weights={"w": _floats(5, 1), "b": _floats(1)}
    ),
    "MatMul": Case([node("MatMul", "x w", "y")], ("float32", (16,)), weights={"w": _floats(5, 16)}),
    "one weight in two products": Case(
        [node("MatMul", "x w", "m"), node("Gemm", "m w w0", "y")], weights={"w": _floats(5, 5), "w0": _floats(5)}
    ),
    "one weight both ways": Case(
        [node("MatMul", "x w", "m"), node("Gemm", "m w", "y", transB=1)], weights={"w": _floats(5, 5)}
    ),
    "Softmax": Case([node("Softmax", "x", "y")]),
    "Softmax, axis 1": Case([node("Softmax", "x", "y", axis=1)]),
    "LogSoftmax": Case([node("LogSoftmax", "x", "y", axis=-1)], ("float32", (_WIDE,)), ("float32", (_WIDE,))),
    "LogSoftmax of one number": Case([node("LogSoftmax", "x", "y")], ("float32", (1,)), ("float32", (1,))),
    "ReduceSum": Case([node("ReduceSum", "x axis", "y")], ("float32", (1,)), constants=_PLACES),
    "ReduceSum, without the dimension": Case(
        [node("ReduceSum", "x axis", "y", keepdims=0)], ("float32", ()), constants=_PLACES
    ),
    "ArgMax": Case([node("ArgMax", "x", "y", axis=1)], ("int64", (1,))),
    "ArgMax, without the dimension": Case([node("ArgMax", "x", "y", axis=-1, keepdims=0)], ("int64", ())),
    "ArgMax of equals": Case([node("ArgMax", "x", "y", axis=1)], ("int64", (1,)), ("int64", (5,)))._replace(
        nodes=[node("Cast", "x", "f", to=1), node("ArgMax", "f", "y", axis=1)]
    ),
    "ArgMax plus a number": Case(
        [node("ArgMax", "x", "m", axis=1, keepdims=0), node("Add", "m c", "y")],
        ("int64", ()),
        constants={"c": np.array(3)},
    ),
    "GatherElements": Case(
        [node("ArgMax", "z", "m", axis=1), node("GatherElements", "x m", "y", axis=1)],
        ("float32", (1,)),
        more={"z": ("float32", (5,))},
    ),
    "Where": Case(
        [node("Greater", "x z", "t"), node("Where", "t x w", "y")],
        more={"z": ("float32", (5,))},
        weights={"w": _floats(1)},
    ),
    "Where of a mask": Case(
        [node("Where", "mask x c", "y")], more={"mask": ("bool", (5,))}, constants={"c": np.float32([-1e9])}
    ),
    "a mask of -inf, and LogSoftmax": Case(
        [node("Where", "mask x c", "m"), node("LogSoftmax", "m", "l"), node("ArgMax", "l", "y", axis=1, keepdims=0)],
        ("int64", ()),
        more={"mask": ("bool", (5,))},
        constants={"c": np.float32([-3e38])},
    ),
    "Less": Case([node("Less", "x w", "y")], ("bool", (5,)), weights={"w": _floats(5)}),
    "whole numbers less others": Case(
        [node("Sub", "x c", "d"), node("Greater", "d e", "y")],
        ("bool", (5,)),
        ("int32", (5,)),
        constants={"c": np.arange(5, dtype=np.int32), "e": np.array(1, np.int32)},
    ),
    "bytes compared": Case([node("Less", "x z", "y")], ("bool", (5,)), ("uint8", (5,)), {"z": ("uint8", (5,))}),
    "places compared with what is observed": Case(
        [node("ArgMax", "z", "m", axis=1), node("Equal", "x m", "y")],
        ("bool", (1,)),
        ("int64", (1,)),
        {"z": ("float32", (5,))},
    ),
    "Equal": Case([node("Equal", "x c", "y")], ("bool", (5,)), ("int64", (5,)), constants={"c": _ints(*range(5))}),
    "one-hot": Case(
        [node("Unsqueeze", "x last_axis", "u"), node("Equal", "u c", "t"), node("Cast", "t", "y", to=1)],
        ("float32", (5,)),
        ("int64", ()),
        constants={"c": _ints(*range(5)), "last_axis": _ints(-1)},
    ),
    **{
        f"{dtype} to floats": Case([node("Cast", "x", "f", to=1), node("Tanh", "f", "y")], x=(dtype, (5,)))
        for dtype in ("uint8", "int8", "int16", "int32", "int64", "bool")
    },
    "bytes as they are": Case([node("Identity", "x", "y")], ("uint8", (5,)), ("uint8", (5,))),
    "to float64": Case([node("Tanh", "x", "t"), node("Cast", "t", "y", to=11)], ("float64", (5,))),
    "Flatten": Case([node("Flatten", "x", "y")], ("float32", (6,)), ("float32", (2, 3))),
    "Concat": Case([node("Concat", "x z x", "y", axis=1)], ("float32", (12,)), more={"z": ("float32", (2,))}),
    "Concat of what is cut again": Case(
        [
            node("Concat", "x z", "c", axis=-1),
            node("Slice", "c two four axis", "s"),
            node("Slice", "c zero1 two axis", "r"),
            node("Add", "s r", "y"),
        ],
        ("float32", (2,)),
        more={"z": ("float32", (2,))},
        constants={**_PLACES, "zero1": _ints(0)},
    ),
    "Slice to the end": Case(
        [node("Slice", "x two end axis", "y")], ("float32", (3,)), constants={**_PLACES, "end": _ints(2**63 - 1)}
    ),
    "Slice from the end": Case(
        [node("Slice", "x minus end axis", "y")],
        ("float32", (2,)),
        constants={**_PLACES, "minus": _ints(-2), "end": _ints(9)},
    ),
    "Slice of all rows": Case(
        [node("Slice", "x starts ends both", "y")],
        ("float32", (2,)),
        constants={"starts": _ints(0, 1), "ends": _ints(2**63 - 1, 3), "both": _ints(0, 1)},
    ),
    "SplitToSequence into lengths": Case(
        [node("SplitToSequence", "x lengths", "s", axis=1), node("SequenceAt", "s last", "y")],
        ("float32", (3,)),
        constants={**_PLACES, "lengths": _ints(2, 3)},
    ),
    "SplitToSequence into one length": Case(
        [node("SplitToSequence", "x length", "s", axis=1), node("SequenceAt", "s last", "y")],
        ("float32", (1,)),
        constants={**_PLACES, "length": np.array(2)},
    ),
    "Gather": Case([node("Gather", "x last", "y", axis=1)], ("float32", ()), constants=_PLACES),
    "Squeeze": Case([node("Squeeze", "x axis", "y")], ("float32", ()), ("float32", (1,)), constants=_PLACES),
    "Unsqueeze": Case([node("Unsqueeze", "x axis", "y")], ("float32", (1, 5)), constants=_PLACES),
    "Reshape": Case(
        [node("Reshape", "x s", "y")], ("float32", (6,)), ("float32", (2, 3)), constants={"s": _ints(0, 6)}
    ),
    "Reshape, rows left over": Case(
        [node("Reshape", "x s", "y")], ("float32", (3, 2)), ("float32", (6,)), constants={"s": _ints(-1, 3, 2)}
    ),
    "Reshape, numbers left over": Case(
        [node("Reshape", "x s", "y")], ("float32", (3, 2)), ("float32", (6,)), constants={"s": _ints(0, 3, -1)}
    ),
    "Reshape by the batch size": Case(
        [
            node("Shape", "x", "shape", start=0, end=1),
            node("Concat", "shape rest", "s", axis=0),
            node("Reshape", "x s", "y"),
        ],
        ("float32", (6,)),
        ("float32", (2, 3)),
        constants={"rest": _ints(6)},
    ),
    "Reshape by a shape put together": Case(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape zero", "n"),
            node("Unsqueeze", "n zeros", "rows"),
            node("Cast", "rows", "rows64", to=7),
            node("Concat", "rows64 rest", "s", axis=0),
            node("Reshape", "x s", "y"),
        ],
        ("float32", (3, 2)),
        ("float32", (6,)),
        constants={"zero": np.array(0), "zeros": _ints(0), "rest": _ints(3, -1)},
    ),
    "Slice up to the batch size": Case(
        [node("Shape", "x", "n", start=0, end=1), node("Slice", "x zeros n zeros", "s"), node("Neg", "s", "y")],
        constants={"zeros": _ints(0)},
    ),
    "Range": Case(
        [node("Range", "zero five one", "r"), node("Equal", "x r", "y")],
        ("bool", (5,)),
        ("int64", (5,)),
        constants={"zero": np.array(0), "five": np.array(5), "one": np.array(1)},
    ),
    "constants in nodes": Case(
        [
            node("Constant", "", "a", value_float=0.5),
            node("Constant", "", "b", value_floats=[0.5, 1.5, 2.5, -0.5, 0.0]),
            node("Mul", "x a", "m"),
            node("Add", "m b", "y"),
        ]
    ),
    "a bias with a fraction, in a node": Case(
        [node("Constant", "", "b", value_floats=[0.5, 1.75, -0.5]), node("Gemm", "x w b", "y")],
        ("float32", (3,)),
        weights={"w": _floats(5, 3)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case: str) -> None:
    nodes, y, x, more, weights, constants = CASES[case]
    inputs = {"x": x, **more}
    used = {name for made in nodes for name in made.input}
    kept = {name: array for name, array in constants.items() if name in used}
    data = graph(nodes, inputs=inputs, outputs={"y": y}, weights=weights, constants=kept)
    assert_equals_onnxruntime(data, inputs, weights)


def test_outputs_of_every_kind_side_by_side() -> None:
    inputs: dict[str, Spec] = {"x": ("float32", (20,)), "n": ("int64", ()), "mask": ("bool", (20,))}
    outputs: dict[str, Spec] = {
        "best": ("int64", ()),
        "chosen": ("float32", (1,)),
        "wide": ("float64", (20,)),
        "is_less_32": ("int32", (1,)),
        "small": ("float32", (20,)),
    }
    nodes = [
        node("Where", "mask x low", "m"),
        node("LogSoftmax", "m", "small"),
        node("ArgMax", "small", "place", axis=1),
        node("GatherElements", "small place", "chosen", axis=1),
        node("Squeeze", "place axis", "best"),
        node("Cast", "small", "wide", to=11),
        node("Unsqueeze", "n axis", "column"),
        node("Add", "column place", "seen"),
        node("Less", "seen c", "is_less"),
        node("Cast", "is_less", "is_less_32", to=6),
    ]
    constants = {"low": np.float32([-1e30]), "axis": _ints(1), "c": _ints(9)}
    data = graph(nodes, inputs=inputs, outputs=outputs, constants=constants)
    assert_equals_onnxruntime(data, inputs)
