"""Random networks equal ONNX Runtime; corrupted graphs are refused or still equal it."""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from shared.engines.llvm import LlvmEngine
from shared.engines.onnx import OnnxEngine
from shared.engines.onnx_graph import keep_outputs
from shared.errors import PolicyOutputError, ProgramError, WeightsError
from tests.support.small_graphs import WIDE_SIZES, Spec, assert_equals_onnxruntime, f32, graph, node, nodes, numbers

_SIZES = (1, 6, 17)
_UNARY = (
    *("Tanh", "Relu", "Sigmoid", "Neg", "Abs", "Identity"),
    *("Softplus", "Mish", "Erf", "Elu", "Selu", "LeakyRelu", "Gelu"),
)
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin")
_CUTS = {
    **{f"axis{i}": np.array([i]) for i in range(1, 4)},
    **{"one": np.array([1]), "huge": np.array([2**62]), "zero": np.array([0]), "low": np.array(-2, np.float32)},
}
_MOST_NUMBERS = 400

Shape = tuple[int, ...]


@dataclass
class Network:
    """Graph under construction: its nodes and the shape of each value in a row."""

    inputs: dict[str, Spec]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=lambda: dict(_CUTS))
    shapes: dict[str, Shape] = field(default_factory=dict)

    def add(self, operator: str, operands: str, shape: Shape, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(operator, operands, name, **attributes))
        self.shapes[name] = shape
        return name

    def weight(self, *shape: int) -> str:
        """Return a weight of fractions of a power of two, whose sums with wide inputs are exact."""
        name = f"w{len(self.weights)}"
        generator = np.random.default_rng(len(self.weights))
        smaller = 2.0 ** (shape[0].bit_length() // 2)
        self.weights[name] = (generator.integers(-8, 9, shape) / 8 / smaller).astype(np.float32)
        return name

    def constant(self, *numbers: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def bytes(self, outputs: list[str]) -> bytes:
        described: dict[str, Spec] = {name: f32(*self.shapes[name]) for name in outputs}
        read = {name for made in self.nodes for name in made.input}
        constants = {name: array for name, array in self.constants.items() if name in read}
        whole = graph(self.nodes, inputs=self.inputs, outputs=described, weights=self.weights, constants=constants)
        return keep_outputs(whole, tuple(range(len(outputs))))  # ONNX Runtime takes no weights that nothing reads


def _with(shape: Shape, axis: int, length: int) -> Shape:
    """Return ``shape`` with another length at the graph's ``axis``, which counts the batch."""
    return (*shape[: axis - 1], length, *shape[axis:])


def _activation(network: Network, x: str, draw: st.DrawFn) -> None:
    operator = draw(st.sampled_from(_UNARY))
    given: dict[str, object] = {}
    if operator in ("Elu", "LeakyRelu"):
        given["alpha"] = draw(st.sampled_from((0.01, 0.5, 1.0, 2.0)))
    if operator == "Gelu":
        given["approximate"] = draw(st.sampled_from(("none", "tanh")))
    network.add(operator, x, network.shapes[x], **given)


def _pair(network: Network, x: str, draw: st.DrawFn) -> None:
    """Add an operator of two operands, the second of which may be broadcast."""
    shape = network.shapes[x]
    kept = [n if draw(st.booleans()) else 1 for n in shape]
    others = [name for name, other in sorted(network.shapes.items()) if other == shape]
    other = draw(st.sampled_from([*others, network.weight(*kept), network.weight(*kept[-1:] or [1])]))
    network.add(draw(st.sampled_from(_BINARY)), " ".join(draw(st.permutations([x, other]))), shape)


def _linear(network: Network, x: str, draw: st.DrawFn) -> None:
    *lead, width = network.shapes[x]
    columns = draw(st.integers(1, 40 if not lead else 9))
    if lead:
        made = network.add("MatMul", f"{x} {network.weight(width, columns)}", (*lead, columns))
        if draw(st.booleans()):
            network.add("Add", f"{made} {network.weight(columns)}", (*lead, columns))
        return
    is_transposed = draw(st.booleans())
    weight = network.weight(*((columns, width) if is_transposed else (width, columns)))
    bias = network.weight(columns) if draw(st.booleans()) else "_"
    network.add("Gemm", f"{x} {weight} {bias}", (columns,), transB=int(is_transposed))


def _along(network: Network, x: str, draw: st.DrawFn) -> None:
    """Add an operator along an axis."""
    shape = network.shapes[x]
    axis = draw(st.integers(1, len(shape)))
    operator = draw(st.sampled_from((*_REDUCTIONS, "Softmax", "LogSoftmax", "LayerNormalization", "TopK", "ArgMax")))
    if operator in _REDUCTIONS:
        network.add(operator, f"{x} axis{axis}", _with(shape, axis, 1))
    elif operator == "LayerNormalization":
        whole = network.weight(*shape[axis - 1 :])
        # No empty name stands for an absent bias: ONNX Runtime crashes on one.
        bias = network.weight(*shape[axis - 1 :]) if draw(st.booleans()) else ""
        network.add(operator, f"{x} {whole} {bias}", shape, axis=axis)
    elif operator == "TopK":
        network.add(operator, f"{x} one", _with(shape, axis, 1), axis=axis, largest=draw(st.integers(0, 1)))
        network.nodes[-1].output.append(f"unread{len(network.nodes)}")
    elif operator == "ArgMax":
        place = network.add(operator, x, _with(shape, axis, 1), axis=axis)
        del network.shapes[place]
        network.add("GatherElements", f"{x} {place}", _with(shape, axis, 1), axis=axis)
    else:
        network.add(operator, x, shape, axis=axis)


def _moved(network: Network, x: str, draw: st.DrawFn) -> None:
    """Add an operator that moves numbers."""
    shape = network.shapes[x]
    axis = draw(st.integers(1, len(shape)))
    length = shape[axis - 1]
    kind = draw(st.sampled_from(("concat", "slice", "transpose", "reshape", "gather", "split", "expand")))
    if kind == "concat":
        alike = [
            name
            for name, other in sorted(network.shapes.items())
            if len(other) == len(shape) and _with(other, axis, 1) == _with(shape, axis, 1)
        ]
        other = draw(st.sampled_from(alike))
        longer = _with(shape, axis, length + network.shapes[other][axis - 1])
        if math.prod(longer) <= _MOST_NUMBERS:
            network.add("Concat", f"{x} {other}", longer, axis=axis)
    elif kind == "slice" and length > 1:
        network.add("Slice", f"{x} zero one axis{axis}", _with(shape, axis, 1))
        network.add("Slice", f"{x} one huge axis{axis}", _with(shape, axis, length - 1))
    elif kind == "transpose":
        order = draw(st.permutations(range(1, len(shape) + 1)))
        network.add("Transpose", x, tuple(shape[i - 1] for i in order), perm=[0, *order])
    elif kind == "reshape":
        to: Shape = (*shape[:-2], shape[-2] * shape[-1]) if len(shape) > 1 else (*shape, 1)
        network.add("Reshape", f"{x} {network.constant(-1, *to)}", to)
    elif kind == "gather":
        places = draw(st.lists(st.integers(-length, length - 1), min_size=1, max_size=4))
        network.add("Gather", f"{x} {network.constant(*places)}", _with(shape, axis, len(places)), axis=axis)
    elif kind == "split" and length > 1:
        network.add("Split", x, _with(shape, axis, -(-length // 2)), axis=axis, num_outputs=2)
        network.nodes[-1].output.append(f"unread{len(network.nodes)}")
    elif kind == "expand" and length == 1 and math.prod(shape) <= _MOST_NUMBERS // 3:
        to = [1, *(3 if i == axis else 1 for i in range(1, len(shape) + 1))]
        network.add("Expand", f"{x} {network.constant(*to)}", _with(shape, axis, 3))


def _attention(network: Network, x: str, draw: st.DrawFn) -> None:
    """Add products of a value's matrices with themselves, transposed."""
    shape = network.shapes[x]
    if len(shape) < 2 or math.prod(shape[:-1]) * shape[-2] > _MOST_NUMBERS:
        return
    rank = len(shape)
    turned = network.add("Transpose", x, (*shape[:-2], shape[-1], shape[-2]), perm=[*range(rank - 1), rank, rank - 1])
    scores = network.add("MatMul", f"{x} {turned}", (*shape[:-1], shape[-2]))
    if draw(st.booleans()):
        scores = network.add("Softmax", scores, (*shape[:-1], shape[-2]))
        network.add("MatMul", f"{scores} {x}", shape)


def _chosen(network: Network, x: str, draw: st.DrawFn) -> None:
    shape = network.shapes[x]
    mask = network.add("Greater", f"{x} {network.weight(*shape)}", shape)
    del network.shapes[mask]
    if draw(st.booleans()):
        mask = network.add("Not", mask, shape)
        del network.shapes[mask]
    network.add("Where", f"{mask} {x} {network.weight(1)}", shape)


def _grow(network: Network, draw: st.DrawFn) -> None:
    """Add a random node that reads random values."""
    x = draw(st.sampled_from(sorted(network.shapes)))
    if draw(st.integers(0, 9)) == 0:
        network.add("Clip", f"{x} low", network.shapes[x])
        return
    draw(st.sampled_from((_activation, _pair, _linear, _along, _moved, _attention, _chosen)))(network, x, draw)


_SHAPES = st.one_of(
    st.tuples(st.integers(1, 20)),
    st.tuples(st.integers(1, 5), st.integers(1, 20)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 8)),
)


def _start(draw: st.DrawFn, most: int) -> Network:
    shapes = draw(st.lists(_SHAPES, min_size=1, max_size=most))
    network = Network({f"x{i}": f32(*shape) for i, shape in enumerate(shapes)})
    network.shapes.update({f"x{i}": shape for i, shape in enumerate(shapes)})
    return network


def _computed(network: Network) -> list[str]:
    return sorted(network.shapes.keys() - network.inputs.keys()) or ["x0"]


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, list[str]]:
    """Draw a network and the names of its outputs."""
    network = _start(draw, 2)
    for _ in range(draw(st.integers(1, 10))):
        _grow(network, draw)
    return network, draw(st.lists(st.sampled_from(_computed(network)), min_size=1, max_size=3, unique=True))


@st.composite
def operators(draw: st.DrawFn) -> tuple[Network, list[str]]:
    """Draw a network of one operator, or of the few that belong together."""
    network = _start(draw, 1)
    _grow(network, draw)
    return network, _computed(network)


@settings(max_examples=25, deadline=None)
@given(networks())
def test_random_networks_equal_onnxruntime(made: tuple[Network, list[str]]) -> None:
    network, outputs = made
    assert_equals_onnxruntime(network.bytes(outputs), network.inputs, network.weights, sizes=_SIZES)


@settings(max_examples=25, deadline=None)
@given(operators())
def test_operators_equal_onnxruntime_on_wide_inputs(made: tuple[Network, list[str]]) -> None:
    """One at a time: a second operator would see the roundings of the first, ten thousand times as large."""
    network, outputs = made
    data = network.bytes(outputs)
    assert_equals_onnxruntime(data, network.inputs, network.weights, sizes=(), wide_sizes=WIDE_SIZES)


@settings(max_examples=30, deadline=None)
@given(networks())
def test_rows_have_the_same_bits_in_blocks_and_alone(made: tuple[Network, list[str]]) -> None:
    network, outputs = made
    engine = LlvmEngine(network.bytes(outputs), network.weights)
    inputs = [numbers(spec, 16, seed) for seed, spec in enumerate(network.inputs.values())]
    alone, together = engine.run([array[:5] for array in inputs]), engine.run(inputs)
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.tobytes() == theirs[:5].tobytes()


Example = Callable[[], tuple[onnx.ModelProto, dict[str, Spec], dict[str, np.ndarray]]]


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
    constants = {name: _CUTS[name] for name in ("zero", "one")}
    constants |= {"tail": np.array([2, 3]), "four": np.arange(4), "low": np.array(-1e9, np.float32)}
    outputs: dict[str, Spec] = {"action": ("int64", ()), "all": f32(6)}
    data = graph(made, inputs=inputs, outputs=outputs, weights=weights, constants=constants)
    return onnx.load_model_from_string(data), inputs, weights


def _attentive() -> tuple[onnx.ModelProto, dict[str, Spec], dict[str, np.ndarray]]:
    """Return a graph of attention over three entities, with two heads that are merged into the batch."""
    inputs: dict[str, Spec] = {"x": f32(3, 4), "mask": ("bool", (3,))}
    weights = {"w": np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), "v": np.ones((1, 1, 4), np.float32)}
    # ONNX Runtime crashes on layer normalization with an empty name.
    made = nodes(
        "Shape x -> rows start=0 end=1; MatMul x w -> k; Reshape k split -> s; Transpose s -> h; "
        "Reshape h merged -> m; Transpose m -> t; MatMul m t -> scores; Reshape scores heads -> u; "
        "Unsqueeze mask places -> b; "
        "Where b u low -> c; Softmax c -> p; Reshape p square -> q; MatMul q m -> o; Reshape o heads2 -> r; "
        "Transpose r -> e; Reshape e back -> f; Concat rows one3 -> shape axis=0; Expand v shape -> g; "
        "Concat f g -> all axis=1; "
        "ReduceMean all two -> y keepdims=0; ReduceMax f one -> j; Mul j y2 -> z; TopK y one -> top; "
        "ArgMax y -> best axis=1"
    )
    for i, order in ((3, [0, 2, 1, 3]), (5, [0, 2, 1]), (14, [0, 2, 1, 3])):
        made[i].attribute.append(helper.make_attribute("perm", order))
    next(n for n in made if n.op_type == "TopK").output.append("unread")
    constants = {
        **{"split": np.array([0, 3, 2, 2]), "merged": np.array([-1, 3, 2]), "heads": np.array([-1, 2, 3, 3])},
        **{"square": np.array([-1, 3, 3]), "heads2": np.array([-1, 2, 3, 2]), "back": np.array([0, 3, -1])},
        **{"places": np.array([1, 2]), "low": np.array(-1e9, np.float32), "one3": np.array([1, 4])},
        **{"one": np.array([1]), "two": np.array([2]), "y2": np.array(2, np.float32)},
    }
    outputs: dict[str, Spec] = {"y": f32(4), "z": f32(1, 4), "top": f32(1), "best": ("int64", (1,))}
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
            [other.op_type for other in nodes]
            + ["Transpose", "Exp", "Sub", "Less", "Softmax", "MatMul", "ReduceMax", "Split", "Expand"]
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


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((_example, _attentive)), st.integers(0, 2**32), st.integers(1, 3))
def test_corrupted_graphs_are_refused_or_equal_onnxruntime(example: Example, seed: int, changes: int) -> None:
    """Skip graphs that compile but that ONNX Runtime refuses, since there is no reference."""
    chance = random.Random(seed)
    model, inputs, weights = example()
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
