from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from shared.errors import OperatorNotAllowed, ProgramError
from shared.operators.onnx_check import read_graph
from shared.operators.onnx_lists import ALLOWED
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY, ProgramTrust

Edit = Callable[[onnx.ModelProto], object]


def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = ("batch", 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, edit: Edit | None = None) -> bytes:
    """Return a graph from ``x`` to ``y``."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "policy", [value("x")], [value("y")], initializer=initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("local", 1)])
    if edit is not None:
        edit(made)
    data: bytes = made.SerializeToString()
    return data


def node(operator: str, inputs: str = "x", output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["" if name == "_" else name for name in inputs.split()], [output], **attributes)


def body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    """Return the body of a Loop with one value that it carries."""
    inputs = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("c")]
    outputs = [value("go_on", TensorProto.BOOL, []), value("d")]
    return helper.make_graph([helper.make_node("Identity", ["go"], ["go_on"]), *nodes], "body", inputs, outputs)


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [value("b")])


def function(*nodes: onnx.NodeProto, name: str = "Helper", domain: str = "local") -> Edit:
    made = helper.make_function(domain, name, ["a"], ["b"], list(nodes), [helper.make_opsetid("", 20)])
    return lambda model: model.functions.append(made)


def call(domain: str = "local", name: str = "Helper") -> onnx.NodeProto:
    return helper.make_node(name, ["x"], ["y"], domain=domain)


def external(location: str, name: str = "w") -> Edit:
    def edit(made: onnx.ModelProto) -> None:
        tensor = made.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[3])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


_RANDOM_NODE = node("RandomUniformLike", "a", "b")
_TRUE = {"t": np.array(True), "n": np.array(3), "many": np.array(2**40)}
ATTACKS: dict[str, tuple[bytes, str]] = {
    "RandomNormal": (model(node("RandomNormal", "", shape=[1])), "RandomNormal"),
    "RandomUniformLike": (model(node("RandomUniformLike")), "RandomUniformLike"),
    "Bernoulli": (model(node("Bernoulli")), "Bernoulli"),
    "Multinomial": (model(node("Multinomial")), "Multinomial"),
    "Dropout in training mode": (model(node("Dropout", "x _ t"), constants=_TRUE), "Dropout in training mode"),
    "Dropout if an input says so": (model(node("Dropout", "x _ x")), "Dropout in training mode"),
    "statistics of a batch": (model(node("BatchNormalization", training_mode=1)), "BatchNormalization in training"),
    "another domain": (model(call("com.microsoft", "Gelu")), "com.microsoft::Gelu"),
    "an unknown operator": (model(node("NoSuchOperator")), "NoSuchOperator"),
    "a loop without a bound": (
        model(node("Loop", "_ t x", body=body(node("Neg", "c", "d"))), constants=_TRUE),
        "Loop without a bound",
    ),
    "a loop with a large bound": (
        model(node("Loop", "many _ x", body=body(node("Neg", "c", "d"))), constants=_TRUE),
        "Loop without a bound",
    ),
    "in a loop": (model(node("Loop", "n _ x", body=body(node("Bernoulli", "c", "d"))), constants=_TRUE), "Bernoulli"),
    "in a branch": (
        model(node("If", "t", then_branch=branch(node("RandomNormal", "", "b", shape=[1])), else_branch=branch())),
        "RandomNormal",
    ),
    "in a branch of a loop": (
        model(
            node(
                "Loop",
                "n _ x",
                body=body(node("If", "go", "d", then_branch=branch(node("Bernoulli", "x", "b")), else_branch=branch())),
            ),
            constants=_TRUE,
        ),
        "Bernoulli",
    ),
    "in a function": (model(call(), edit=function(_RANDOM_NODE)), "RandomUniformLike"),
    "in a function that is not called": (model(node("Neg"), edit=function(_RANDOM_NODE)), "RandomUniformLike"),
    "in a function named like an operator": (
        model(node("Neg"), edit=function(_RANDOM_NODE, name="Neg", domain="")),
        "RandomUniformLike",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_operators_that_are_not_pure_are_refused_by_name(name: str) -> None:
    data, operator = ATTACKS[name]
    with pytest.raises(OperatorNotAllowed, match=f"replace {operator}"):
        check_program("onnx", data, PURE_ONLY)


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.safetensors", "other.bin", ""])
def test_values_in_other_files_are_refused(location: str) -> None:
    with pytest.raises(ProgramError, match="refers to the file"):
        check_program("onnx", model(node("Add", "x w"), edit=external(location)), PURE_ONLY)


def test_values_in_the_weights_file_are_allowed() -> None:
    data = model(node("Add", "x w"), edit=external("weights.safetensors"))
    assert not check_program("onnx", data, PURE_ONLY).data_dependent


@pytest.mark.parametrize("place", ["attribute", "function", "branch"])
def test_other_tensors_are_in_the_graph(place: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.safetensors")
    constant = helper.make_node("Constant", [], ["b"], value=tensor)
    data = {
        "attribute": model(helper.make_node("Constant", [], ["y"], value=tensor)),
        "function": model(call(), edit=function(constant)),
        "branch": model(node("If", "t", then_branch=branch(constant), else_branch=branch()), constants=_TRUE),
    }[place]
    with pytest.raises(ProgramError, match="refers to the file"):
        check_program("onnx", data, PURE_ONLY)


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x08"])
def test_bytes_that_are_no_graph_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match="not an ONNX graph"):
        read_graph(data, frozenset())


def test_unknown_fields_are_refused_because_another_reader_may_know_them() -> None:
    field_999 = b"\xba\x3e\x03abc"
    with pytest.raises(ProgramError, match="fields that it does not know"):
        read_graph(model(node("Neg")) + field_999, frozenset())


def test_training_information_is_refused() -> None:
    with pytest.raises(ProgramError, match="for inference"):
        read_graph(model(node("Neg"), edit=lambda made: made.training_info.add()), frozenset())


def test_subgraphs_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.operators.onnx_check._MOST_DEPTH", 5)
    inner = branch(node("Neg", "x", "b"))
    for _ in range(6):
        inner = branch(node("If", "t", "b", then_branch=inner, else_branch=branch()))
    with pytest.raises(ProgramError, match="nested at most"):
        read_graph(model(node("If", "t", then_branch=inner, else_branch=branch()), constants=_TRUE), frozenset())


def test_an_operator_may_be_allowed_by_name_and_then_nothing_is_known_of_the_program() -> None:
    data = model(call("com.microsoft", "Gelu"))
    traits = check_program("onnx", data, ProgramTrust(allowed_operators=("com.microsoft::Gelu",)))
    assert traits.operators == ("com.microsoft::Gelu",)
    assert traits.data_dependent
    assert check_program("onnx", data, ProgramTrust(programs=True)).data_dependent


def test_names_from_a_graph_change_no_log() -> None:
    with pytest.raises(OperatorNotAllowed) as refused:
        check_program("onnx", model(node("Evil\n\x1b[31m" + "x" * 1000)), PURE_ONLY)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


_SIZES = {"shape": np.array([1, 3]), "two": np.array([2])}
CASES: dict[str, tuple[bytes, bool]] = {
    "a fixed shape": (model(node("Reshape", "x shape"), constants=_SIZES), False),
    "a shape from a shape": (model(node("Shape", "x", "s"), node("Reshape", "x s")), False),
    "a shape from the values": (model(node("Cast", "x", "s", to=7), node("Reshape", "x s")), True),
    "a shape from the weights": (
        model(node("Reshape", "x w"), edit=external("weights.safetensors")),
        True,
    ),
    "a shape in a function": (model(call(), edit=function(node("Reshape", "a a", "b"))), True),
    "nonzero": (model(node("NonZero")), True),
    "top of a number": (model(node("TopK", "x two"), constants=_SIZES), False),
    "a branch": (model(node("If", "t", then_branch=branch(node("Neg", "x", "b")), else_branch=branch())), True),
    "a loop": (model(node("Loop", "n _ x", body=body(node("Neg", "c", "d"))), constants=_TRUE), True),
    "dropout for evaluation": (model(node("Dropout")), False),
}


@pytest.mark.parametrize("name", CASES)
def test_graphs_that_values_steer_are_marked(name: str) -> None:
    data, expected = CASES[name]
    assert check_program("onnx", data, PURE_ONLY).data_dependent is expected


_OPERATORS = st.sampled_from([*sorted(ALLOWED - {"Loop", "Dropout"}), "RandomNormal", "Bernoulli", "Whatever"])


@st.composite
def _graphs(draw: st.DrawFn, depth: int = 2) -> tuple[list[onnx.NodeProto], set[str]]:
    """Draw nodes, some with subgraphs, and the set of all their operators."""
    nodes, names = [], set()
    for operator in draw(st.lists(_OPERATORS, min_size=1, max_size=4)):
        made = node(operator)
        names.add(operator)
        if depth and draw(st.booleans()):
            inside, more = draw(_graphs(depth - 1))
            made.attribute.append(helper.make_attribute("body", branch(*inside)))
            names |= more
        nodes.append(made)
    return nodes, names


@given(_graphs(), _graphs())
def test_the_listed_operators_are_those_of_the_graph(
    main: tuple[list[onnx.NodeProto], set[str]], inside: tuple[list[onnx.NodeProto], set[str]]
) -> None:
    findings = read_graph(model(*main[0], edit=function(*inside[0])), frozenset())
    expected = main[1] | inside[1]
    assert findings.operators == expected
    assert {name for name, _ in findings.refused} == expected - ALLOWED
