"""Graphs that mix rows or are unsupported are refused before anything is compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.engines.llvm import read_row_program
from shared.engines.row_compiler.constant_folding import BATCH
from shared.engines.row_compiler.graph_reader import read_graph
from shared.errors import ProgramError, ProgramUnsupported
from tests.support.small_graphs import Spec, f32, graph, node, nodes


class Case(NamedTuple):
    """Graph from ``x`` to ``y`` and the expected error."""

    nodes: Sequence[onnx.NodeProto]
    message: str
    y: Spec = f32(5)
    x: Spec = f32(5)
    more: Mapping[str, Spec] = {}
    weights: Mapping[str, np.ndarray] = {}
    constants: Mapping[str, np.ndarray] = {}


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_ROWS = node("Shape", "x", "n", start=0, end=1)
_SQUARE: dict[str, Any] = {"more": {"z": f32(5)}}
_ONE_INT: dict[str, Any] = {"y": ("int64", (1,)), "x": ("int64", (1,))}

MIXES_ROWS: dict[str, Case] = {
    "ReduceSum over the batch": Case(nodes("ReduceSum x a -> y"), "axis 0", constants={"a": _ints(0)}),
    "ReduceSum over all": Case(nodes("ReduceSum x -> y"), "over the axes"),
    "ReduceSum over both": Case(nodes("ReduceSum x a -> y"), "axis 0", constants={"a": _ints(0, 1)}),
    "ReduceMean over all": Case(nodes("ReduceMean x -> y"), "over the axes"),
    "ReduceMax over the batch": Case(nodes("ReduceMax x a -> y"), "axis -2", constants={"a": _ints(-2)}),
    "TopK over the batch": Case(nodes("TopK x k -> y axis=0"), "axis 0", constants={"k": _ints(1)}),
    "LayerNormalization over the batch": Case(
        nodes("LayerNormalization x w -> y axis=0"), "axis 0", weights={"w": _zeros(5)}
    ),
    "LayerNormalization over rows behind another axis": Case(
        [node("Transpose", "x", "t", perm=[1, 2, 0]), *nodes("LayerNormalization t w -> y axis=1")],
        "over rows",
        f32(5, 5),
        f32(5, 5),
        weights={"w": _zeros(5)},
    ),
    "ArgMax over the batch": Case(nodes("ArgMax x -> y axis=0"), "axis 0"),
    "Softmax over the batch": Case(nodes("Softmax x -> y axis=0"), "axis 0"),
    "LogSoftmax over the batch, from the end": Case(nodes("LogSoftmax x -> y axis=-2"), "axis -2"),
    "Concat of rows": Case(nodes("Concat x z -> y axis=0"), "axis 0", **_SQUARE),
    "Concat with a weight": Case(nodes("Concat x w -> y axis=1"), "several", weights={"w": _zeros(1, 5)}),
    "Concat of rows behind other axes": Case(
        [node("Transpose", "x", "t", perm=[1, 0, 2]), *nodes("Concat t x -> y axis=2")],
        "several",
        f32(5, 10),
        f32(5, 5),
    ),
    "Gather of rows": Case(nodes("Gather x p -> y axis=0"), "axis 0", constants={"p": np.array(0)}),
    "Slice of rows": Case(
        nodes("Slice x s e a -> y"), "axis 0", constants={"s": _ints(1), "e": _ints(2**62), "a": _ints(0)}
    ),
    "Slice of the first rows": Case(
        nodes("Slice x s e a -> y"), "axis 0", constants={"s": _ints(0), "e": _ints(2), "a": _ints(0)}
    ),
    "Slice of rows backwards": Case(
        nodes("Slice x s e a s -> y"), "axis 0", constants={"s": _ints(-1), "e": _ints(-99), "a": _ints(0)}
    ),
    "Slice from the batch size on": Case(
        [_ROWS, node("Slice", "x n e a", "y")], "batch size", constants={"e": _ints(9), "a": _ints(1)}
    ),
    "Slice of each row up to the batch size": Case(
        [_ROWS, node("Slice", "x s n a", "y")], "batch size", constants={"s": _ints(0), "a": _ints(1)}
    ),
    "Gather at the batch size": Case([_ROWS, node("Gather", "x n", "y", axis=1)], "depends on the batch size"),
    "Reshape into one row": Case(nodes("Reshape x s -> y"), "row by row", constants={"s": _ints(1, -1)}),
    "Reshape into fewer": Case(nodes("Reshape x s -> y"), "mixes rows", constants={"s": _ints(-1, 10)}),
    "Reshape into more": Case(nodes("Reshape x s -> y"), "row by row", f32(1), constants={"s": _ints(-1, 1)}),
    "Reshape flat": Case(nodes("Reshape x s -> y"), "row by row", f32(), constants={"s": _ints(-1)}),
    "Reshape of rows behind another axis, to before it": Case(
        [node("Transpose", "x", "t", perm=[1, 0, 2]), *nodes("Reshape t s -> y")],
        "mixes rows",
        f32(3, 4),
        f32(3, 4),
        constants={"s": _ints(-1, 3, 4)},
    ),
    "Reshape of rows within an axis, to the start of it": Case(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            *nodes("Reshape t s -> merged; Reshape merged back -> y"),
        ],
        "mixes rows",
        f32(3, 4),
        f32(3, 4),
        constants={"s": _ints(-1, 4), "back": _ints(-1, 3, 4)},
    ),
    "sum of rows within an axis in two orders": Case(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            *nodes("Reshape t s -> a; Reshape x s -> b; Add a b -> c; Reshape c back -> y"),
        ],
        "operands of shapes",
        f32(3, 4),
        f32(3, 4),
        constants={"s": _ints(-1, 4), "back": _ints(-1, 3, 4)},
    ),
    "Reshape with two sizes left over": Case(
        nodes("Reshape x s -> y"), "mixes rows", f32(3, 2), f32(6), constants={"s": _ints(-1, -1, 2)}
    ),
    "Expand of a row to the batch, within": Case(
        [_ROWS, *nodes("Concat s n -> t axis=0; Expand x t -> y")], "Expand of", constants={"s": _ints(1)}
    ),
    "Reshape, rows last": Case(
        [_ROWS, node("Concat", "s n", "t", axis=0), node("Reshape", "x t", "y")],
        "mixes rows",
        constants={"s": _ints(5)},
    ),
    "Split of rows": Case([helper.make_node("Split", ["x"], ["y", "z"], num_outputs=2)], "axis 0"),
    "SplitToSequence of rows": Case(
        nodes("SplitToSequence x n -> s axis=0; SequenceAt s o -> y"),
        "axis 0",
        constants={"n": _ints(1, 1), "o": np.array(0)},
    ),
    "Flatten flat": Case(nodes("Flatten x -> y axis=0"), "mixes rows"),
    "Unsqueeze before the rows": Case(nodes("Unsqueeze x a -> y"), "row by row", constants={"a": _ints(0)}),
    "Squeeze of the rows": Case(nodes("Squeeze x a -> y"), "Squeeze", constants={"a": _ints(0)}),
    "MatMul of rows": Case(nodes("MatMul x z -> y"), "matrix product", **_SQUARE),
    "a weight times rows": Case(nodes("MatMul w x -> y"), "matrix product", weights={"w": _zeros(5, 5)}),
    "Gemm of a transposed batch": Case(nodes("Gemm x w -> y transA=1"), "transA", weights={"w": _zeros(5, 5)}),
    **{
        f"Einsum {equation}": Case([node("Einsum", "x z", "y", equation=equation)], "Einsum of", **_SQUARE)
        for equation in (
            "bi,bi->i",
            "bi,ci->bc",
            "bi,ib->b",
            "bi,jb->bij",
            "bb,bi->bi",
            "bi,bj->bi",
            "bi,bj->b",
            "bi,bi->",
        )
    },
    "MatMul of rows with a stack": Case(
        nodes("MatMul x z -> y"), "across rows", f32(5, 5), more={"z": f32(5, 5)}, weights={}
    ),
    "MatMul of a transposed batch": Case(
        nodes("Transpose x -> t; MatMul t w -> y"), "a matrix product of", weights={"w": _zeros(1, 5)}
    ),
    "MatMul of a transposed batch with a matrix that is computed": Case(
        nodes("Transpose x -> t; Neg w -> m; MatMul t m -> y"), "across rows", weights={"w": _zeros(1, 5)}
    ),
    "Transpose": Case(nodes("Transpose x -> y"), "row by row"),
    "rows without a dimension plus rows": Case(nodes("Add x z -> y"), "operands of shapes", more={"z": f32()}),
    "a weight with a dimension before the batch": Case(
        nodes("Add x w -> a; ReduceSum a p -> y"),
        "axis 1",
        weights={"w": _zeros(1, 1, 5)},
        constants={"p": _ints(1)},
    ),
    "a weight for each row": Case(nodes("Add x w -> y"), "operands of shapes", weights={"w": _zeros(3, 5)}),
    "an output that is not of rows": Case(nodes("Neg w -> y"), "row by row", weights={"w": _zeros(5)}),
    "the batch size as a number": Case(
        [_ROWS, node("Cast", "n", "f", to=1), node("Div", "x f", "y")], "arithmetic on the batch size"
    ),
    "the batch size compared": Case([_ROWS, node("Equal", "n x", "y")], "not a tensor", x=("int64", (1,))),
    "a Range of the batch size": Case(
        nodes("Shape x -> s; Gather s z -> n; Range z n o -> r; Add x r -> y"),
        "Range",
        constants={"z": np.array(0), "o": np.array(1)},
    ),
}

NOT_KNOWN: dict[str, Case] = {
    "an operator": Case(nodes("Sin x -> y"), "operator Sin"),
    "a second output that is not translated": Case(
        [helper.make_node("LayerNormalization", ["x", "w"], ["z", "m"]), *nodes("Sub x m -> y")],
        r"reads \['m'\]",
        weights={"w": _zeros(5)},
    ),
    "TopK of two": Case(nodes("TopK x k -> y"), "TopK of", f32(2), constants={"k": _ints(2)}),
    "Pow of a weight": Case(nodes("Pow x w -> y"), "Pow with an exponent", weights={"w": _zeros(1)}),
    "Pow of a fraction": Case(
        nodes("Pow x c -> y"), "Pow with an exponent", constants={"c": np.array(1.5, np.float32)}
    ),
    "LayerNormalization with weights that are computed": Case(
        nodes("Neg w -> v; LayerNormalization x v -> y"), "computed weights", weights={"w": _zeros(5)}
    ),
    "logic of numbers": Case(nodes("And x x -> y"), "two bools"),
    "Gather at places from outside": Case(
        nodes("Gather w x -> y"), "list of constants", f32(5), x=("int64", ()), weights={"w": _zeros(7, 5)}
    ),
    "Gather beyond the end": Case(nodes("Gather x p -> y axis=1"), "beyond", f32(), constants={"p": np.array(5)}),
    "Slice of nothing": Case(nodes("Slice x s s a -> y"), "no numbers", constants={"s": _ints(2), "a": _ints(1)}),
    "Split into other lengths": Case(
        [helper.make_node("Split", ["x", "n"], ["y", "z"], axis=1)], "Split of 5", constants={"n": _ints(2, 2)}
    ),
    "Split without lengths": Case([helper.make_node("Split", ["x"], ["y", "z"], axis=1)], "without lengths"),
    "Transpose to no order": Case([node("Transpose", "x", "y", perm=[0, 0])], "to the order"),
    "a domain": Case([node("Tanh", "x", "y", domain="com.example")], r"com\.example\.Tanh"),
    "several outputs": Case([helper.make_node("MaxPool", ["x"], ["y", "z"])], "operator MaxPool"),
    "GatherElements at a place from outside": Case(
        nodes("GatherElements x p -> y axis=1"), "may be out of range", more={"p": ("int64", (1,))}
    ),
    "GatherElements at a place computed": Case(
        nodes("ArgMax x -> a axis=1; Add a c -> p; GatherElements x p -> y axis=1"),
        "may be out of range",
        constants={"c": _ints(1)},
    ),
    "GatherElements at a place of something wider": Case(
        nodes("ArgMax z -> p axis=1; GatherElements x p -> y axis=1"), "may be out of range", more={"z": f32(6)}
    ),
    "GatherElements at two places": Case(
        nodes("GatherElements x p -> y axis=1"), "more than one index", more={"p": ("int64", (2,))}
    ),
    "large whole numbers": Case(
        nodes("Add x c -> y"), "too large for float32", **_ONE_INT, constants={"c": _ints(2**22 + 1)}
    ),
    "large negative numbers": Case(
        nodes("Add x c -> y"), "too large for float32", **_ONE_INT, constants={"c": _ints(-(2**22) - 1)}
    ),
    "the least of all numbers": Case(
        nodes("Add x c -> y"), "too large for float32", **_ONE_INT, constants={"c": _ints(-(2**63))}
    ),
    "the number that stands for the batch size": Case(
        nodes("Add x c -> y"), "not a tensor", **_ONE_INT, constants={"c": _ints(BATCH)}
    ),
    "whole numbers from outside as they are": Case(nodes("Identity x -> y"), "output y", **_ONE_INT),
    "whole numbers from outside, moved": Case(nodes("Add x c -> y"), "output y", **_ONE_INT, constants={"c": _ints(1)}),
    "whole numbers from outside, cast": Case(nodes("Cast x -> y to=6"), "output y", ("int32", (1,)), ("int64", (1,))),
    "whole numbers from outside compared": Case(
        nodes("Equal x x -> y"), "equal of observed", ("bool", (1,)), ("int64", (1,))
    ),
    "bytes, of which sums wrap around": Case(
        nodes("Sub x x -> s; Cast s -> y to=1"), "sub of narrow", x=("uint8", (5,))
    ),
    "unsigned numbers of 32 bits": Case(nodes("Cast x -> y to=1"), "an input of uint32", x=("uint32", (5,))),
    "whole numbers times another": Case(nodes("Mul x x -> y"), "mul of observed", **_ONE_INT),
    "floats as whole numbers": Case(nodes("Cast x -> y to=7"), "Cast of floats"),
    "floats as whole numbers, by way of float64": Case(
        nodes("Cast x -> d to=11; Cast d -> y to=7"), "Cast of floats", ("int64", (5,))
    ),
    "numbers as truth": Case(nodes("Cast x -> y to=9"), "Cast of numbers to bool", **_ONE_INT),
    "float64 arithmetic": Case(nodes("Cast x -> d to=11; Exp d -> y"), "not float32"),
    "float64 from outside": Case(nodes("Identity x -> y"), "an input of float64", x=("float64", (5,))),
    "float16": Case(nodes("Cast x -> y to=10"), "Cast to float16", ("float16", (5,))),
    "an output of another dtype than its numbers": Case(nodes("Neg x -> y"), "output y", ("float16", (5,))),
    "an output of whole numbers that are floats": Case(nodes("Neg x -> y"), "output y", ("int64", (5,))),
    "a bias of whole numbers": Case(
        nodes("Gemm x w b -> y"), "a sum of values", weights={"w": _zeros(5, 5)}, constants={"b": _ints(*range(5))}
    ),
    "a weight of whole numbers": Case(
        nodes("Add x w -> y"), r"reads \['w'\]", x=("int64", (5,)), weights={"w": _ints(*range(5))}
    ),
    "a weight of no numbers": Case(nodes("Add x w -> y"), "0 numbers in a row", weights={"w": _zeros(0)}, x=f32(1)),
    "a large matrix in the graph itself": Case(
        nodes("MatMul x w -> y"), "not a tensor", f32(900), constants={"w": _zeros(5, 900)}
    ),
    "too many steps": Case(
        [node("Neg", "x" if i == 0 else f"v{i}", f"v{i + 1}") for i in range(501)], "more than 500 steps"
    ),
    "too many copies": Case(
        [
            node("Concat", "x " * 501, "a", axis=1),
            node("Concat", "x " * 500, "b", axis=1),
            *nodes("Concat a b -> y axis=1"),
        ],
        "more than 1000 copies",
        f32(5005),
    ),
    "too many multiplications for a row": Case(
        nodes("MatMul x x -> a; MatMul a a -> b; MatMul b b -> y"),
        "multiplications of a row",
        f32(255, 255),
        f32(255, 255),
    ),
    "too wide a row": Case(nodes("Identity x -> y"), "an input of", x=f32(2**16 + 1)),
    "too many known numbers": Case(
        nodes("Range z n o -> r; Add x r -> y"),
        "Range from 0 to 5000",
        constants={"z": np.array(0), "n": np.array(5000), "o": np.array(1)},
    ),
    "a missing operand": Case(nodes("Add x -> y"), "add of 1 operands"),
    "a missing choice": Case(nodes("Less x x -> t; Where t x -> y"), "a graph that cannot be read: ValueError"),
    "a missing input": Case(nodes("Tanh _ -> y"), "not a tensor"),
    "a cycle": Case(nodes("Tanh y -> y"), r"reads \['y'\]"),
}


def _read(case: Case) -> None:
    nodes, _, y, x, more, weights, constants = case
    data = graph(nodes, inputs={"x": x, **more}, outputs={"y": y}, weights=weights, constants=constants)
    read_row_program(data)


@pytest.mark.parametrize("case", MIXES_ROWS)
def test_graphs_that_mix_rows_are_refused(case: str) -> None:
    with pytest.raises(ProgramUnsupported, match=MIXES_ROWS[case].message):
        _read(MIXES_ROWS[case])


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_unsupported_operators_are_refused(case: str) -> None:
    with pytest.raises(ProgramUnsupported, match=NOT_KNOWN[case].message):
        _read(NOT_KNOWN[case])


def _edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = onnx.load_model_from_string(
        graph(nodes("Add x z -> y"), inputs={"x": f32(5), "z": f32(5)}, outputs={"y": f32(5)})
    )
    edit(model)
    return model


def _dimensions(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: setattr(_dimensions(m.graph.input[1])[0], "dim_param", "other"), "z needs the batch"),
        (lambda m: setattr(_dimensions(m.graph.input[0])[0], "dim_value", 5), "x needs the batch"),
        (lambda m: setattr(_dimensions(m.graph.input[0])[1], "dim_param", "batch"), "only there"),
        (lambda m: setattr(_dimensions(m.graph.input[0])[1], "dim_value", 0), "only there"),
        (lambda m: _dimensions(m.graph.input[0]).pop(), "operands of shapes"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "x needs the batch"),
        (lambda m: m.graph.input[0].ClearField("type"), "x needs the batch"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999), "dtype 999"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING), "an input of object"),
        (lambda m: setattr(m.graph.output[0], "name", "z"), None),
        (lambda m: setattr(m.graph.output[0], "name", "nothing"), "nothing is not computed"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.COMPLEX64), "output y"),
        (lambda m: setattr(_dimensions(m.graph.output[0])[1], "dim_value", 4), "row by row"),
        (lambda m: setattr(m.opset_import[0], "version", 11), "operator sets"),
        (lambda m: m.ClearField("opset_import"), "operator sets"),
    ],
    ids=[
        *("another batch", "a fixed batch", "two of the batch", "an empty row", "one dimension less", "no shape"),
        *("no type", "no dtype", "strings", "an input comes out", "nothing comes out", "complex numbers"),
        *("another width", "an old operator set", "no operator set"),
    ],
)
def test_inputs_and_outputs_are_rows_of_one_batch(
    edit: Callable[[onnx.ModelProto], object], message: str | None
) -> None:
    if message is None:
        read_graph(_edited(edit))
        return
    with pytest.raises(ProgramUnsupported, match=message):
        read_graph(_edited(edit))


@pytest.mark.parametrize("data", [b"not a graph", b"\0" * 64], ids=["text", "zeros"])
def test_malformed_graphs_are_program_errors(data: bytes) -> None:
    with pytest.raises(ProgramError) as caught:
        read_row_program(data)
    assert not isinstance(caught.value, ProgramUnsupported)


def test_nodes_that_no_output_needs_are_ignored() -> None:
    made = nodes("Neg x -> y; Sin x -> z")
    outputs: dict[str, Spec] = {"y": f32(5), "z": f32(5)}
    data = graph(made, inputs={"x": f32(5)}, outputs=outputs)
    assert len(read_row_program(data, [0]).steps) == 1
    with pytest.raises(ProgramUnsupported, match="operator Sin"):
        read_row_program(data)
