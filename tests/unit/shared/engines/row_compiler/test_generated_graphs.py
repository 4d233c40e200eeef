"""Random networks equal ONNX Runtime; corrupted graphs are refused or still equal it."""

import random
import warnings
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.engines.llvm import LlvmEngine
from shared.engines.onnx import OnnxEngine
from shared.engines.onnx_graph import keep_outputs
from shared.errors import PolicyOutputError, ProgramError, WeightsError
from tests.support.small_graphs import Spec, assert_equals_onnxruntime, f32, graph, node, nodes, numbers

_SIZES = (1, 6, 17)
_UNARY = ("Tanh", "Relu", "Sigmoid", "Neg", "Abs", "Identity")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
_CUTS = {"one": np.array([1]), "huge": np.array([2**62]), "zero": np.array([0]), "low": np.array(-2, np.float32)}


@dataclass
class Network:
    """Graph under construction: its nodes and the width of each value."""

    inputs: dict[str, Spec]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def add(self, operator: str, operands: str, width: int, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, operands, name, **attributes))
        self.widths[name] = width
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        generator = np.random.default_rng(len(self.weights))
        self.weights[name] = (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return name

    def bytes(self, outputs: list[str]) -> bytes:
        described: dict[str, Spec] = {name: f32(self.widths[name]) for name in outputs}
        whole = graph(
            self.nodes, inputs=self.inputs, outputs=described, weights=self.weights, constants=_used(self.nodes)
        )
        return keep_outputs(whole, tuple(range(len(outputs))))  # ONNX Runtime takes no weights that nothing reads


def _used(nodes: list[onnx.NodeProto]) -> dict[str, np.ndarray]:
    read = {name for made in nodes for name in made.input}
    return {name: array for name, array in _CUTS.items() if name in read}


def _grow(network: Network, draw: st.DrawFn) -> None:
    """Add a random node that reads random values."""
    x = draw(st.sampled_from(sorted(network.widths)))
    width = network.widths[x]
    kind = draw(st.sampled_from(("unary", "binary", "linear", "row", "concat", "slice", "clip", "where", "argmax")))
    if kind == "unary":
        network.add(draw(st.sampled_from(_UNARY)), x, width)
    elif kind == "binary":
        others = [name for name, w in sorted(network.widths.items()) if w in (1, width)]
        other = draw(st.sampled_from([*others, network.weight(width), network.weight(1)]))
        operands = draw(st.permutations([x, other]))
        network.add(draw(st.sampled_from(_BINARY)), " ".join(operands), width)
    elif kind == "linear":
        columns = draw(st.integers(1, 40))
        is_transposed = draw(st.booleans())
        weight = network.weight(*((columns, width) if is_transposed else (width, columns)))
        bias = network.weight(columns) if draw(st.booleans()) else "_"
        network.add("Gemm", f"{x} {weight} {bias}", columns, transB=int(is_transposed))
    elif kind == "row":
        operator = draw(st.sampled_from(("Softmax", "LogSoftmax", "ReduceSum")))
        network.add(operator, f"{x} one" if operator == "ReduceSum" else x, 1 if operator == "ReduceSum" else width)
    elif kind == "concat":
        other = draw(st.sampled_from(sorted(network.widths)))
        if width + network.widths[other] <= 100:
            network.add("Concat", f"{x} {other}", width + network.widths[other], axis=1)
    elif kind == "slice" and width > 1:
        network.add("Slice", f"{x} zero one one", 1)
        network.add("Slice", f"{x} one huge one", width - 1)
    elif kind == "clip":
        network.add("Clip", f"{x} low", width)
    elif kind == "where":
        mask = network.add("Greater", f"{x} {network.weight(width)}", width)
        del network.widths[mask]
        network.add("Where", f"{mask} {x} {network.weight(1)}", width)
    elif kind == "argmax":
        place = network.add("ArgMax", x, 1, axis=1)
        del network.widths[place]
        network.add("GatherElements", f"{x} {place}", 1, axis=1)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, list[str]]:
    """Draw a network and the names of its outputs."""
    widths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=2))
    network = Network({f"x{i}": f32(width) for i, width in enumerate(widths)})
    network.widths.update({f"x{i}": width for i, width in enumerate(widths)})
    for _ in range(draw(st.integers(1, 10))):
        _grow(network, draw)
    computed = sorted(network.widths.keys() - network.inputs.keys()) or ["x0"]
    return network, draw(st.lists(st.sampled_from(computed), min_size=1, max_size=3, unique=True))


@settings(max_examples=60, deadline=None)
@given(networks())
def test_random_networks_equal_onnxruntime(made: tuple[Network, list[str]]) -> None:
    network, outputs = made
    assert_equals_onnxruntime(network.bytes(outputs), network.inputs, network.weights, sizes=_SIZES)


@settings(max_examples=30, deadline=None)
@given(networks())
def test_rows_have_the_same_bits_in_blocks_and_alone(made: tuple[Network, list[str]]) -> None:
    network, outputs = made
    engine = LlvmEngine(network.bytes(outputs), network.weights)
    inputs = [numbers(spec, 16, seed) for seed, spec in enumerate(network.inputs.values())]
    alone, together = engine.run([array[:5] for array in inputs]), engine.run(inputs)
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.tobytes() == theirs[:5].tobytes()


def _example() -> tuple[onnx.ModelProto, dict[str, Spec], dict[str, np.ndarray]]:
    """Return a graph with many kinds of operators."""
    inputs: dict[str, Spec] = {"x": f32(6), "n": ("int64", ()), "mask": ("bool", (4,))}
    weights = {"w": np.full((6, 4), 0.25, np.float32), "b": np.arange(4, dtype=np.float32)}
    made = nodes(
        "Shape x -> rows start=0 end=1; Concat rows tail -> shape axis=0; Reshape x shape -> r; "
        "Flatten r -> f; Gemm f w b -> g; Tanh g -> t; Unsqueeze n one -> u; Equal u four -> e; "
        "Cast e -> c to=1; Add t c -> a; Where mask a low -> m; LogSoftmax m -> l; "
        "ArgMax l -> p axis=1; GatherElements l p -> q axis=1; Squeeze p one -> action; "
        "Slice l zero one one -> s; Concat q s t -> all axis=1"
    )
    constants = {**_CUTS, "tail": np.array([2, 3]), "four": np.arange(4), "low": np.array(-1e9, np.float32)}
    outputs: dict[str, Spec] = {"action": ("int64", ()), "all": f32(6)}
    data = graph(made, inputs=inputs, outputs=outputs, weights=weights, constants=constants)
    return onnx.load_model_from_string(data), inputs, weights


def _spoil(model: onnx.ModelProto, chance: random.Random) -> None:
    """Change one thing: an operator, a name, an attribute, a constant, a shape or a dtype."""
    nodes, one = model.graph.node, chance.choice
    names = [n for made in nodes for n in (*made.input, *made.output)]
    made = one(nodes)
    kind = one(("operator", "read", "drop", "attribute", "constant", "shape", "dtype", "swap", "repeat", "written"))
    if kind == "operator":
        made.op_type = one(
            [other.op_type for other in nodes] + ["Transpose", "Exp", "Sub", "Less", "Softmax", "MatMul"]
        )
    elif kind == "read" and made.input:
        made.input[chance.randrange(len(made.input))] = one([*names, ""])
    elif kind == "drop":
        nodes.remove(made)
    elif kind == "attribute" and made.attribute:
        attribute = one(made.attribute)
        attribute.i = one([-3, -2, -1, 0, 1, 2, 7, 11])
    elif kind == "constant":
        tensor = one([t for t in model.graph.initializer if t.raw_data])
        tensor.raw_data = one([tensor.raw_data[::-1], bytes(len(tensor.raw_data)), b"\xff" * len(tensor.raw_data)])
    elif kind in ("shape", "dtype"):
        described = one([*model.graph.input, *model.graph.output]).type.tensor_type
        if kind == "dtype":
            described.elem_type = one(range(1, 17))
        elif described.shape.dim:
            one(described.shape.dim).dim_value = one([1, 2, 3, 4, 6])
    elif kind == "swap" and len(made.input) > 1:
        made.input[0], made.input[1] = made.input[1], made.input[0]
    elif kind == "repeat":
        nodes.insert(chance.randrange(len(nodes)), made)
    elif kind == "written":
        made.output[0] = one(names)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_corrupted_graphs_are_refused_or_equal_onnxruntime(seed: int, changes: int) -> None:
    """Skip graphs that compile but that ONNX Runtime refuses, since there is no reference."""
    chance = random.Random(seed)
    model, inputs, weights = _example()
    for _ in range(changes):
        _spoil(model, chance)
    data = model.SerializeToString()
    try:
        engine = LlvmEngine(data, weights)
    except (ProgramError, WeightsError):
        return
    arrays = [numbers(spec, 5, i) for i, spec in enumerate(inputs.values())]
    try:
        found = engine.run(arrays)
    except PolicyOutputError:
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            expected = OnnxEngine(data, weights, bind=False, outputs=range(len(found))).run(arrays)
    except (ProgramError, PolicyOutputError):
        return
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        assert mine.dtype == theirs.dtype
