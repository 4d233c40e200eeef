"""Graphs that mix rows or are unsupported are refused before anything is compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.engines.llvm import read_row_program
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
    "ReduceSum over both": Case(nodes("ReduceSum x a -> y"), "over the axes", constants={"a": _ints(0, 1)}),
    "ReduceMean": Case(nodes("ReduceMean x -> y"), "operator ReduceMean"),
    "ArgMax over the batch": Case(nodes("ArgMax x -> y axis=0"), "axis 0"),
    "Softmax over the batch": Case(nodes("Softmax x -> y axis=0"), "axis 0"),
    "LogSoftmax over the batch, from the end": Case(nodes("LogSoftmax x -> y axis=-2"), "axis -2"),
    "Concat of rows": Case(nodes("Concat x z -> y axis=0"), "axis 0", **_SQUARE),
    "Concat with a weight": Case(nodes("Concat x w -> y axis=1"), "axis 1", weights={"w": _zeros(1, 5)}),
    "Gather of rows": Case(nodes("Gather x p -> y axis=0"), "axis 0", constants={"p": np.array(0)}),
    "Slice of rows": Case(
        nodes("Slice x s e a -> y"), "axis 0", constants={"s": _ints(1), "e": _ints(2**62), "a": _ints(0)}
    ),
    "Slice of the first rows": Case(
        nodes("Slice x s e a -> y"), "axis 0", constants={"s": _ints(0), "e": _ints(2), "a": _ints(0)}
    ),
    "Slice of rows backwards": Case(
        nodes("Slice x s e a s -> y"), "with steps", constants={"s": _ints(-1), "e": _ints(-99), "a": _ints(0)}
    ),
    "Slice from the batch size on": Case(
        [_ROWS, node("Slice", "x n e a", "y")], "batch size", constants={"e": _ints(9), "a": _ints(1)}
    ),
    "Slice of each row up to the batch size": Case(
        [_ROWS, node("Slice", "x s n a", "y")], "batch size", constants={"s": _ints(0), "a": _ints(1)}
    ),
    "Gather at the batch size": Case([_ROWS, node("Gather", "x n", "y", axis=1)], "more than one index"),
    "Reshape into one row": Case(nodes("Reshape x s -> y"), "mixes rows", constants={"s": _ints(1, -1)}),
    "Reshape into fewer": Case(nodes("Reshape x s -> y"), "mixes rows", constants={"s": _ints(-1, 10)}),
    "Reshape into more": Case(nodes("Reshape x s -> y"), "mixes rows", constants={"s": _ints(-1, 1)}),
    "Reshape flat": Case(nodes("Reshape x s -> y"), "mixes rows", constants={"s": _ints(-1)}),
    "Reshape, rows last": Case(
        [_ROWS, node("Concat", "s n", "t", axis=0), node("Reshape", "x t", "y")],
        "mixes rows",
        constants={"s": _ints(5)},
    ),
    "Flatten flat": Case(nodes("Flatten x -> y axis=0"), "mixes rows"),
    "Unsqueeze before the rows": Case(nodes("Unsqueeze x a -> y"), "before the rows", constants={"a": _ints(0)}),
    "Squeeze of the rows": Case(nodes("Squeeze x a -> y"), "Squeeze", constants={"a": _ints(0)}),
    "MatMul of rows": Case(nodes("MatMul x z -> y"), "matrix product", **_SQUARE),
    "a weight times rows": Case(nodes("MatMul w x -> y"), "matrix product", weights={"w": _zeros(5, 5)}),
    "Gemm of a transposed batch": Case(nodes("Gemm x w -> y transA=1"), "transA", weights={"w": _zeros(5, 5)}),
    "rows as a bias": Case(nodes("Gemm x w z -> y"), "bias", weights={"w": _zeros(5, 5)}, **_SQUARE),
    "Transpose": Case(nodes("Transpose x -> y"), "operator Transpose"),
    "Expand": Case(nodes("Expand x s -> y"), "operator Expand", constants={"s": _ints(1, 5)}),
    "rows without a dimension plus rows": Case(nodes("Add x z -> y"), "operands of shapes", more={"z": f32()}),
    "a weight with a dimension before the batch": Case(
        nodes("Add x w -> a; ReduceSum a p -> y"),
        "operands of shapes",
        weights={"w": _zeros(1, 1, 5)},
        constants={"p": _ints(1)},
    ),
    "a weight for each row": Case(nodes("Add x w -> y"), "operands of shapes", weights={"w": _zeros(3, 5)}),
    "a column against a row": Case(nodes("Add x w -> y"), "operands", f32(5, 5), f32(5, 1), weights={"w": _zeros(5)}),
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
    "an operator": Case(nodes("Erf x -> y"), "operator Erf"),
    "a domain": Case([node("Tanh", "x", "y", domain="com.example")], r"com\.example\.Tanh"),
    "several outputs": Case([helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], "2 outputs"),
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
        nodes("Add x c -> y"), "not a tensor", **_ONE_INT, constants={"c": _ints(-(2**62))}
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
    "a bias that is computed": Case(
        nodes("Add b b -> c; Gemm x w c -> y"), "computed", weights={"w": _zeros(5, 5), "b": _zeros(5)}
    ),
    "a bias of whole numbers": Case(
        nodes("Gemm x w b -> y"), "a bias of values", weights={"w": _zeros(5, 5)}, constants={"b": _ints(*range(5))}
    ),
    "a weight of whole numbers": Case(
        nodes("Add x w -> y"), r"reads \['w'\]", x=("int64", (5,)), weights={"w": _ints(*range(5))}
    ),
    "a matrix that is a vector too": Case(
        nodes("MatMul x w -> m; Add m w -> y"), "both as a matrix and as a vector", weights={"w": _zeros(5, 5)}
    ),
    "a weight of no numbers": Case(nodes("Add x w -> y"), "0 numbers in a row", weights={"w": _zeros(0)}, x=f32(1)),
    "a matrix in the graph itself": Case(nodes("MatMul x w -> y"), "a weight", constants={"w": _zeros(5, 5)}),
    "too many steps": Case(
        [node("Neg", "x" if i == 0 else f"v{i}", f"v{i + 1}") for i in range(501)], "more than 500 steps"
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
    made = nodes("Neg x -> y; Erf x -> z")
    outputs: dict[str, Spec] = {"y": f32(5), "z": f32(5)}
    data = graph(made, inputs={"x": f32(5)}, outputs=outputs)
    assert len(read_row_program(data, [0]).steps) == 1
    with pytest.raises(ProgramUnsupported, match="operator Erf"):
        read_row_program(data)
