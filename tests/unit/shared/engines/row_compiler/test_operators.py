"""Each operator that computes numbers against ONNX Runtime, at batch sizes that take every path through the code."""

import numpy as np
import pytest
from onnx import helper

from tests.support.operator_cases import PLACES, Case, assert_case_equals_onnxruntime, floats, ints
from tests.support.small_graphs import Spec, assert_equals_onnxruntime, f32, graph, node, nodes

_WIDE = 37  # more than two vectors, and no multiple of any tile

CASES: dict[str, Case] = {
    **{name: Case([node(name, "x", "y")]) for name in ("Abs", "Exp", "Neg", "Reciprocal", "Relu", "Sigmoid", "Tanh")},
    "Log": Case(nodes("Exp x -> e; Log e -> y")),
    "Log of 0 and more": Case(nodes("Abs x -> a; Log a -> y")),
    "Sqrt": Case(nodes("Abs x -> a; Sqrt a -> y")),
    "of many numbers": Case(nodes("Tanh x -> y"), f32(_WIDE), f32(_WIDE)),
    "of no dimension": Case(nodes("Tanh x -> y"), f32(), f32()),
    "of two dimensions": Case(nodes("Tanh x -> y"), f32(2, 3), f32(2, 3)),
    **{name: Case([node(name, "x z", "y")], more={"z": f32(5)}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    "one column with many": Case(nodes("Sub z x -> y"), more={"z": f32(1)}),
    "one weight with many": Case(nodes("Sub w x -> y"), weights={"w": floats(1)}),
    "a weight of no dimension": Case(nodes("Mul x w -> y"), weights={"w": floats()}),
    "a weight for each number": Case(nodes("Mul x w -> y"), weights={"w": floats(5)}),
    "a weight with a batch dimension of 1": Case(nodes("Mul x w -> y"), weights={"w": floats(1, 5)}),
    "two weights": Case(nodes("Add w v -> s; Mul x s -> y"), weights={"w": floats(5), "v": floats(1)}),
    "a constant": Case(nodes("Div x c -> y"), constants={"c": np.array([1, 2, 4, 8, 3], np.float32)}),
    "the same operand twice": Case(nodes("Mul x x -> y")),
    "Max of three": Case(nodes("Max x z w -> y"), more={"z": f32(5)}, weights={"w": floats(5)}),
    "Max of one": Case(nodes("Max x -> m; Neg m -> y")),
    "Clip": Case(nodes("Clip x l h -> y"), constants={"l": np.float32([-0.5])[0], "h": np.float32([0.25])[0]}),
    "Clip below": Case(nodes("Clip x l -> y"), constants={"l": np.float32([-0.5])[0]}),
    "Clip above": Case(nodes("Clip x _ h -> y"), constants={"h": np.float32([0.25])[0]}),
    "Gemm": Case(nodes("Gemm x w b -> y"), f32(3), weights={"w": floats(5, 3), "b": floats(3)}),
    "Gemm, transposed": Case(nodes("Gemm x w b -> y transB=1"), f32(3), weights={"w": floats(3, 5), "b": floats(3)}),
    "Gemm without a bias": Case(nodes("Gemm x w -> y"), f32(3), weights={"w": floats(5, 3)}),
    "Gemm of many numbers": Case(
        nodes("Gemm x w b -> y transB=1"), f32(99), f32(_WIDE), weights={"w": floats(99, _WIDE), "b": floats(99)}
    ),
    "Gemm to one number": Case(nodes("Gemm x w b -> y"), f32(1), weights={"w": floats(5, 1), "b": floats(1)}),
    "MatMul": Case(nodes("MatMul x w -> y"), f32(16), weights={"w": floats(5, 16)}),
    "one weight in two products": Case(
        nodes("MatMul x w -> m; Gemm m w w0 -> y"), weights={"w": floats(5, 5), "w0": floats(5)}
    ),
    "one weight both ways": Case(nodes("MatMul x w -> m; Gemm m w -> y transB=1"), weights={"w": floats(5, 5)}),
    "one weight as a matrix and as a bias for each row": Case(
        nodes("MatMul x w -> m; Gather w zero -> r; Add m r -> y"), weights={"w": floats(5, 5)}, constants=PLACES
    ),
    "a bias that is computed": Case(
        nodes("Add b b -> c; Gemm x w c -> y"), f32(3), weights={"w": floats(5, 3), "b": floats(3)}
    ),
    "rows as a bias": Case(nodes("Gemm x w z -> y"), f32(3), more={"z": f32(3)}, weights={"w": floats(5, 3)}),
    "a product plus a vector, twice": Case(
        nodes("MatMul x w -> m; Add m b -> s; Add b m -> t; Mul s t -> p; Mul p m -> y"),
        f32(3),
        weights={"w": floats(5, 3), "b": floats(3)},
    ),
    "a product with a matrix in the graph": Case(nodes("MatMul x c -> y"), f32(3), constants={"c": floats(5, 3)}),
    "a product with a matrix that is computed": Case(
        nodes("Neg w -> t; MatMul x t -> y"), f32(3), weights={"w": floats(5, 3)}
    ),
    "a product with a matrix that is turned, cut and split": Case(
        nodes(
            "Transpose w -> t; Slice t zero1 five last_axis -> c; Split c -> p num_outputs=1 axis=1; MatMul x p -> y"
        ),
        f32(5),
        weights={"w": floats(7, 5)},
        constants={"zero1": ints(0), "five": ints(5), "last_axis": ints(-1)},
    ),
    "a product of weights": Case(
        nodes("MatMul v w -> m; Add x m -> y"), f32(2, 3), f32(2, 3), weights={"v": floats(2, 4), "w": floats(4, 3)}
    ),
    "Gemm with a matrix that is computed": Case(
        nodes("Neg w -> t; Gemm x t b -> y transB=1"), f32(3), weights={"w": floats(3, 5), "b": floats(3)}
    ),
    **{
        f"Einsum {equation}": Case([node("Einsum", "x z", "y", equation=equation)], f32(*y), f32(*x), {"z": f32(*z)})
        for equation, x, z, y in (
            ("bhqd,bhkd->bhqk", (2, 3, 5), (2, 4, 5), (2, 3, 4)),
            ("bhd,blhd->bhl", (2, 5), (4, 2, 5), (2, 4)),
            ("bhl,blhd->bhd", (2, 4), (4, 2, 5), (2, 5)),
            ("bi,bj->bji", (3,), (5,), (5, 3)),
        )
    },
    **{
        f"Einsum {equation}, by a weight": Case(
            [node("Einsum", "x w" if equation[0] == "b" else "w x", "y", equation=equation)],
            f32(*y),
            f32(*x),
            weights={"w": floats(*w)},
        )
        for equation, x, w, y in (
            ("bhd,hde->bhe", (2, 5), (2, 5, 3), (2, 3)),
            ("bd,ed->be", (5,), (3, 5), (3,)),
            ("qd,bkd->bqk", (4, 5), (3, 5), (3, 4)),
        )
    },
    "PRelu": Case(nodes("PRelu x w -> y"), f32(3, 5), f32(3, 5), weights={"w": floats(5)}),
    "Softmax": Case(nodes("Softmax x -> y")),
    "Softmax, axis 1": Case(nodes("Softmax x -> y axis=1")),
    "LogSoftmax": Case(nodes("LogSoftmax x -> y axis=-1"), f32(_WIDE), f32(_WIDE)),
    "LogSoftmax of one number": Case(nodes("LogSoftmax x -> y"), f32(1), f32(1)),
    "ReduceSum": Case(nodes("ReduceSum x axis -> y"), f32(1), constants=PLACES),
    "ReduceSum, without the dimension": Case(nodes("ReduceSum x axis -> y keepdims=0"), f32(), constants=PLACES),
    "ArgMax": Case(nodes("ArgMax x -> y axis=1"), ("int64", (1,))),
    "ArgMax, without the dimension": Case(nodes("ArgMax x -> y axis=-1 keepdims=0"), ("int64", ())),
    "ArgMax of equals": Case(nodes("ArgMax x -> y axis=1"), ("int64", (1,)), ("int64", (5,)))._replace(
        nodes=nodes("Cast x -> f to=1; ArgMax f -> y axis=1")
    ),
    "ArgMax plus a number": Case(
        nodes("ArgMax x -> m axis=1 keepdims=0; Add m c -> y"), ("int64", ()), constants={"c": np.array(3)}
    ),
    "GatherElements": Case(nodes("ArgMax z -> m axis=1; GatherElements x m -> y axis=1"), f32(1), more={"z": f32(5)}),
    "Where": Case(nodes("Greater x z -> t; Where t x w -> y"), more={"z": f32(5)}, weights={"w": floats(1)}),
    "Where of a mask": Case(
        nodes("Where mask x c -> y"), more={"mask": ("bool", (5,))}, constants={"c": np.float32([-1e9])}
    ),
    "a mask of -inf, and LogSoftmax": Case(
        nodes("Where mask x c -> m; LogSoftmax m -> l; ArgMax l -> y axis=1 keepdims=0"),
        ("int64", ()),
        more={"mask": ("bool", (5,))},
        constants={"c": np.float32([-3e38])},
    ),
    "Less": Case(nodes("Less x w -> y"), ("bool", (5,)), weights={"w": floats(5)}),
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
    "Equal": Case(nodes("Equal x c -> y"), ("bool", (5,)), ("int64", (5,)), constants={"c": ints(*range(5))}),
    "one-hot": Case(
        nodes("Unsqueeze x last_axis -> u; Equal u c -> t; Cast t -> y to=1"),
        f32(5),
        ("int64", ()),
        constants={"c": ints(*range(5)), "last_axis": ints(-1)},
    ),
    **{
        name: Case([node(name, "x", "y", **given)], f32(37), f32(37))
        for name, given in (("Elu", {}), ("Selu", {}), ("LeakyRelu", {}), ("Softplus", {}), ("Mish", {}), ("Erf", {}))
    },
    "Elu of another slope": Case([node("Elu", "x", "y", alpha=0.5)]),
    "Selu of other numbers": Case([node("Selu", "x", "y", alpha=1.5, gamma=2.0)]),
    "LeakyRelu of another slope": Case([node("LeakyRelu", "x", "y", alpha=0.3)]),
    "Gelu": Case([node("Gelu", "x", "y")], f32(37), f32(37)),
    "Gelu by tanh": Case([node("Gelu", "x", "y", approximate="tanh")], f32(37), f32(37)),
    **{
        f"Pow {exponent}": Case(nodes("Abs x -> a; Pow a c -> y"), constants={"c": np.array(exponent, np.float32)})
        for exponent in (0.5, 1, 2, 3)
    },
    **{
        name: Case(
            nodes(f"Cast x -> f to=1; {name} f c -> y"),
            ("bool", (5,)),
            ("int64", (5,)),
            constants={"c": np.arange(5, dtype=np.float32)},
        )
        for name in ("GreaterOrEqual", "LessOrEqual")
    },
    "logic of bools": Case(
        nodes("Less x z -> a; Not a -> b; And a m -> c; Or b c -> d; And d m -> y"),
        ("bool", (5,)),
        more={"z": f32(5), "m": ("bool", (5,))},
    ),
    "IsNaN": Case(nodes("Log x -> l; IsNaN l -> y"), ("bool", (5,))),
    **{
        f"{name} over {where}": Case(nodes(f"{name} x axes -> y"), f32(*shape), f32(3, 5, 7), constants={"axes": axes})
        for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
        for where, axes, shape in (
            ("the last axis", ints(-1), (3, 5, 1)),
            ("an axis within", ints(2), (3, 1, 7)),
            ("the first axis of a row", ints(1), (1, 5, 7)),
            ("two axes", ints(1, 3), (1, 5, 1)),
        )
    },
    "ReduceMean over all of a row": Case(
        nodes("ReduceMean x axes -> y keepdims=0"), f32(), f32(3, 7), constants={"axes": ints(1, 2)}
    ),
    "LayerNormalization": Case(
        nodes("LayerNormalization x g b -> y"), f32(37), f32(37), weights={"g": floats(37), "b": floats(37, seed=1)}
    ),
    "LayerNormalization of several vectors, without a bias": Case(
        [node("LayerNormalization", "x g", "y", epsilon=0.1)], f32(3, 20), f32(3, 20), weights={"g": floats(20)}
    ),
    "LayerNormalization over two axes": Case(
        nodes("LayerNormalization x g b -> y axis=-2"),
        f32(2, 3, 5),
        f32(2, 3, 5),
        weights={"g": floats(3, 5), "b": floats(3, 5, seed=1)},
    ),
    "TopK": Case([helper.make_node("TopK", ["x", "k"], ["y", "i"])], f32(3, 1), f32(3, 5), constants={"k": ints(1)}),
    "TopK, the places": Case(
        [helper.make_node("TopK", ["x", "k"], ["v", "y"], axis=1)],
        ("int64", (1, 5)),
        f32(3, 5),
        constants={"k": ints(1)},
    ),
    "TopK of the least": Case(
        [helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=0)], f32(1), constants={"k": ints(1)}
    ),
    "TopK, the place of the least": Case(
        [helper.make_node("TopK", ["x", "k"], ["v", "y"], largest=0)], ("int64", (1,)), constants={"k": ints(1)}
    ),
    **{
        f"{name} along axis {axis}": Case(nodes(f"{name} x -> y axis={axis}"), f32(3, 4, 19), f32(3, 4, 19))
        for name in ("Softmax", "LogSoftmax")
        for axis in (1, 2, -1)
    },
    "ArgMax along an axis within": Case(nodes("ArgMax x -> y axis=1 keepdims=0"), ("int64", (7,)), f32(5, 7)),
    "GatherElements of several vectors": Case(
        nodes("ArgMax x -> m axis=1; GatherElements z m -> y axis=1"), f32(1, 7), f32(5, 7), {"z": f32(5, 7)}
    ),
    "GatherElements of a vector at a place of each row": Case(
        nodes(
            "ArgMax x -> m axis=1; Unsqueeze m two -> u; Shape z -> n start=0 end=1; Concat n rest -> s axis=0; "
            "Expand u s -> e; GatherElements z e -> y axis=1"
        ),
        f32(1, 7),
        more={"z": f32(5, 7)},
        constants={**PLACES, "rest": ints(1, 7)},
    ),
    "a column against a row": Case(nodes("Add x w -> y"), f32(5, 5), f32(5, 1), weights={"w": floats(5)}),
    "a vector for each of several": Case(nodes("Mul x w -> y"), f32(3, 4, 5), f32(3, 4, 5), weights={"w": floats(5)}),
    "a number for each of several": Case(nodes("Sub x z -> y"), f32(3, 4, 5), f32(3, 4, 5), more={"z": f32(3, 1, 1)}),
    "a mask over several": Case(
        nodes("Unsqueeze mask two -> u; Not u -> n; Where n c x -> y"),
        f32(4, 5),
        f32(4, 5),
        {"mask": ("bool", (5,))},
        constants={"c": np.array(-1e9, np.float32), "two": ints(1)},
    ),
    "MatMul of several rows": Case(nodes("MatMul x w -> y"), f32(3, 4, 37), f32(3, 4, 9), weights={"w": floats(9, 37)}),
    "MatMul of several rows, and a bias": Case(
        nodes("MatMul x w -> m; Add b m -> y"), f32(7, 70), f32(7, 5), weights={"w": floats(5, 70), "b": floats(70)}
    ),
    "MatMul of matrices": Case(nodes("MatMul x z -> y"), f32(3, 7), f32(3, 5), {"z": f32(5, 7)}),
    "MatMul of stacks of matrices": Case(
        nodes("MatMul x z -> y"), f32(2, 4, 3, 70), f32(2, 4, 3, 5), {"z": f32(2, 4, 5, 70)}
    ),
    "MatMul of a stack with one matrix": Case(
        nodes("MatMul x z -> y"), f32(4, 3, 7), f32(4, 3, 5), more={"z": f32(1, 5, 7)}
    ),
    "MatMul of one matrix with a stack": Case(
        nodes("MatMul x z -> y"), f32(4, 3, 7), f32(1, 3, 5), more={"z": f32(4, 5, 7)}
    ),
    "MatMul of a weight with a stack": Case(
        nodes("MatMul w x -> y"), f32(4, 3, 7), f32(4, 5, 7), weights={"w": floats(1, 4, 3, 5)}
    ),
    "MatMul of a stack with weights": Case(
        nodes("MatMul x w -> y"), f32(4, 3, 7), f32(4, 3, 5), weights={"w": floats(4, 5, 7)}
    ),
    "MatMul to columns of numbers": Case(nodes("MatMul x z -> y"), f32(9, 1), f32(9, 5), more={"z": f32(5, 1)}),
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
        weights={"w": floats(5, 3)},
    ),
}
# Each library rounds these in its own way: sums of products, and the smallest exponentials.
_ROUNDED = ("a product plus a vector, twice", "Log")


@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case: str) -> None:
    assert_case_equals_onnxruntime(CASES[case], is_wide=case not in _ROUNDED)


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
    constants = {"low": np.float32([-1e30]), "axis": ints(1), "c": ints(9)}
    data = graph(made, inputs=inputs, outputs=outputs, constants=constants)
    assert_equals_onnxruntime(data, inputs)
