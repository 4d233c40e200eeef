"""Each operator against ONNX Runtime, at batch sizes that take every path through the compiled code."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from tests.support.small_graphs import Spec, assert_equals_onnxruntime, f32, graph, node, nodes


class Case(NamedTuple):
    """Description of a graph; its result is ``y``, or those in ``outputs``."""

    nodes: Sequence[onnx.NodeProto]
    y: Spec = f32(5)
    x: Spec = f32(5)
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
    "Identity": Case(nodes("Identity x -> y")),
    "Log": Case(nodes("Exp x -> e; Log e -> y")),
    "Sqrt": Case(nodes("Abs x -> a; Sqrt a -> y")),
    "of many numbers": Case(nodes("Tanh x -> y"), f32(_WIDE), f32(_WIDE)),
    "of no dimension": Case(nodes("Tanh x -> y"), f32(), f32()),
    "of two dimensions": Case(nodes("Tanh x -> y"), f32(2, 3), f32(2, 3)),
    **{name: Case([node(name, "x z", "y")], more={"z": f32(5)}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    "one column with many": Case(nodes("Sub z x -> y"), more={"z": f32(1)}),
    "one weight with many": Case(nodes("Sub w x -> y"), weights={"w": _floats(1)}),
    "a weight of no dimension": Case(nodes("Mul x w -> y"), weights={"w": _floats()}),
    "a weight for each number": Case(nodes("Mul x w -> y"), weights={"w": _floats(5)}),
    "a weight with a batch dimension of 1": Case(nodes("Mul x w -> y"), weights={"w": _floats(1, 5)}),
    "two weights": Case(nodes("Add w v -> s; Mul x s -> y"), weights={"w": _floats(5), "v": _floats(1)}),
    "a constant": Case(nodes("Div x c -> y"), constants={"c": np.array([1, 2, 4, 8, 3], np.float32)}),
    "the same operand twice": Case(nodes("Mul x x -> y")),
    "Max of three": Case(nodes("Max x z w -> y"), more={"z": f32(5)}, weights={"w": _floats(5)}),
    "Max of one": Case(nodes("Max x -> m; Neg m -> y")),
    "Clip": Case(nodes("Clip x l h -> y"), constants={"l": np.float32([-0.5])[0], "h": np.float32([0.25])[0]}),
    "Clip below": Case(nodes("Clip x l -> y"), constants={"l": np.float32([-0.5])[0]}),
    "Clip above": Case(nodes("Clip x _ h -> y"), constants={"h": np.float32([0.25])[0]}),
    "Gemm": Case(nodes("Gemm x w b -> y"), f32(3), weights={"w": _floats(5, 3), "b": _floats(3)}),
    "Gemm, transposed": Case(nodes("Gemm x w b -> y transB=1"), f32(3), weights={"w": _floats(3, 5), "b": _floats(3)}),
    "Gemm without a bias": Case(nodes("Gemm x w -> y"), f32(3), weights={"w": _floats(5, 3)}),
    "Gemm of many numbers": Case(
        nodes("Gemm x w b -> y transB=1"), f32(99), f32(_WIDE), weights={"w": _floats(99, _WIDE), "b": _floats(99)}
    ),
    "Gemm to one number": Case(nodes("Gemm x w b -> y"), f32(1), weights={"w": _floats(5, 1), "b": _floats(1)}),
    "MatMul": Case(nodes("MatMul x w -> y"), f32(16), weights={"w": _floats(5, 16)}),
    "one weight in two products": Case(
        nodes("MatMul x w -> m; Gemm m w w0 -> y"), weights={"w": _floats(5, 5), "w0": _floats(5)}
    ),
    "one weight both ways": Case(nodes("MatMul x w -> m; Gemm m w -> y transB=1"), weights={"w": _floats(5, 5)}),
    "Softmax": Case(nodes("Softmax x -> y")),
    "Softmax, axis 1": Case(nodes("Softmax x -> y axis=1")),
    "LogSoftmax": Case(nodes("LogSoftmax x -> y axis=-1"), f32(_WIDE), f32(_WIDE)),
    "LogSoftmax of one number": Case(nodes("LogSoftmax x -> y"), f32(1), f32(1)),
    "ReduceSum": Case(nodes("ReduceSum x axis -> y"), f32(1), constants=_PLACES),
    "ReduceSum, without the dimension": Case(nodes("ReduceSum x axis -> y keepdims=0"), f32(), constants=_PLACES),
    "ArgMax": Case(nodes("ArgMax x -> y axis=1"), ("int64", (1,))),
    "ArgMax, without the dimension": Case(nodes("ArgMax x -> y axis=-1 keepdims=0"), ("int64", ())),
    "ArgMax of equals": Case(nodes("ArgMax x -> y axis=1"), ("int64", (1,)), ("int64", (5,)))._replace(
        nodes=nodes("Cast x -> f to=1; ArgMax f -> y axis=1")
    ),
    "ArgMax plus a number": Case(
        nodes("ArgMax x -> m axis=1 keepdims=0; Add m c -> y"), ("int64", ()), constants={"c": np.array(3)}
    ),
    "GatherElements": Case(nodes("ArgMax z -> m axis=1; GatherElements x m -> y axis=1"), f32(1), more={"z": f32(5)}),
    "Where": Case(nodes("Greater x z -> t; Where t x w -> y"), more={"z": f32(5)}, weights={"w": _floats(1)}),
    "Where of a mask": Case(
        nodes("Where mask x c -> y"), more={"mask": ("bool", (5,))}, constants={"c": np.float32([-1e9])}
    ),
    "a mask of -inf, and LogSoftmax": Case(
        nodes("Where mask x c -> m; LogSoftmax m -> l; ArgMax l -> y axis=1 keepdims=0"),
        ("int64", ()),
        more={"mask": ("bool", (5,))},
        constants={"c": np.float32([-3e38])},
    ),
    "Less": Case(nodes("Less x w -> y"), ("bool", (5,)), weights={"w": _floats(5)}),
    "whole numbers less others": Case(
        nodes("Sub x c -> d; Greater d e -> y"),
        ("bool", (5,)),
        ("int32", (5,)),
        constants={"c": np.arange(5, dtype=np.int32), "e": np.array(1, np.int32)},
    ),
    "bytes compared": Case(nodes("Less x z -> y"), ("bool", (5,)), ("uint8", (5,)), {"z": ("uint8", (5,))}),
    "places compared with what is observed": Case(
        nodes("ArgMax z -> m axis=1; Equal x m -> y"), ("bool", (1,)), ("int64", (1,)), {"z": f32(5)}
    ),
    "Equal": Case(nodes("Equal x c -> y"), ("bool", (5,)), ("int64", (5,)), constants={"c": _ints(*range(5))}),
    "one-hot": Case(
        nodes("Unsqueeze x last_axis -> u; Equal u c -> t; Cast t -> y to=1"),
        f32(5),
        ("int64", ()),
        constants={"c": _ints(*range(5)), "last_axis": _ints(-1)},
    ),
    **{
        f"{dtype} to floats": Case(nodes("Cast x -> f to=1; Tanh f -> y"), x=(dtype, (5,)))
        for dtype in ("uint8", "int8", "int16", "int32", "int64", "bool")
    },
    "bytes as they are": Case(nodes("Identity x -> y"), ("uint8", (5,)), ("uint8", (5,))),
    "to float64": Case(nodes("Tanh x -> t; Cast t -> y to=11"), ("float64", (5,))),
    "Flatten": Case(nodes("Flatten x -> y"), f32(6), f32(2, 3)),
    "Concat": Case(nodes("Concat x z x -> y axis=1"), f32(12), more={"z": f32(2)}),
    "Concat of what is cut again": Case(
        nodes("Concat x z -> c axis=-1; Slice c two four axis -> s; Slice c zero1 two axis -> r; Add s r -> y"),
        f32(2),
        more={"z": f32(2)},
        constants={**_PLACES, "zero1": _ints(0)},
    ),
    "Slice to the end": Case(
        nodes("Slice x two end axis -> y"), f32(3), constants={**_PLACES, "end": _ints(2**63 - 1)}
    ),
    "Slice from the end": Case(
        nodes("Slice x minus end axis -> y"), f32(2), constants={**_PLACES, "minus": _ints(-2), "end": _ints(9)}
    ),
    "Slice of all rows": Case(
        nodes("Slice x starts ends both -> y"),
        f32(2),
        constants={"starts": _ints(0, 1), "ends": _ints(2**63 - 1, 3), "both": _ints(0, 1)},
    ),
    "SplitToSequence into lengths": Case(
        nodes("SplitToSequence x lengths -> s axis=1; SequenceAt s last -> y"),
        f32(3),
        constants={**_PLACES, "lengths": _ints(2, 3)},
    ),
    "SplitToSequence into one length": Case(
        nodes("SplitToSequence x length -> s axis=1; SequenceAt s last -> y"),
        f32(1),
        constants={**_PLACES, "length": np.array(2)},
    ),
    "Gather": Case(nodes("Gather x last -> y axis=1"), f32(), constants=_PLACES),
    "Squeeze": Case(nodes("Squeeze x axis -> y"), f32(), f32(1), constants=_PLACES),
    "Unsqueeze": Case(nodes("Unsqueeze x axis -> y"), f32(1, 5), constants=_PLACES),
    "Reshape": Case(nodes("Reshape x s -> y"), f32(6), f32(2, 3), constants={"s": _ints(0, 6)}),
    "Reshape, rows left over": Case(nodes("Reshape x s -> y"), f32(3, 2), f32(6), constants={"s": _ints(-1, 3, 2)}),
    "Reshape, numbers left over": Case(nodes("Reshape x s -> y"), f32(3, 2), f32(6), constants={"s": _ints(0, 3, -1)}),
    "Reshape by the batch size": Case(
        nodes("Shape x -> shape start=0 end=1; Concat shape rest -> s axis=0; Reshape x s -> y"),
        f32(6),
        f32(2, 3),
        constants={"rest": _ints(6)},
    ),
    "Reshape by a shape put together": Case(
        nodes(
            "Shape x -> shape; Gather shape zero -> n; Unsqueeze n zeros -> rows; "
            "Cast rows -> rows64 to=7; Concat rows64 rest -> s axis=0; Reshape x s -> y"
        ),
        f32(3, 2),
        f32(6),
        constants={"zero": np.array(0), "zeros": _ints(0), "rest": _ints(3, -1)},
    ),
    "Slice up to the batch size": Case(
        nodes("Shape x -> n start=0 end=1; Slice x zeros n zeros -> s; Neg s -> y"), constants={"zeros": _ints(0)}
    ),
    "Range": Case(
        nodes("Range zero five one -> r; Equal x r -> y"),
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
        f32(3),
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
    inputs: dict[str, Spec] = {"x": f32(20), "n": ("int64", ()), "mask": ("bool", (20,))}
    outputs: dict[str, Spec] = {
        "best": ("int64", ()),
        "chosen": f32(1),
        "wide": ("float64", (20,)),
        "is_less_32": ("int32", (1,)),
        "small": f32(20),
    }
    made = nodes(
        "Where mask x low -> m; LogSoftmax m -> small; ArgMax small -> place axis=1; "
        "GatherElements small place -> chosen axis=1; Squeeze place axis -> best; "
        "Cast small -> wide to=11; Unsqueeze n axis -> column; Add column place -> seen; "
        "Less seen c -> is_less; Cast is_less -> is_less_32 to=6"
    )
    constants = {"low": np.float32([-1e30]), "axis": _ints(1), "c": _ints(9)}
    data = graph(made, inputs=inputs, outputs=outputs, constants=constants)
    assert_equals_onnxruntime(data, inputs)
