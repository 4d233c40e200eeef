"""Operators of an ONNX graph, read without ONNX Runtime: nodes, subgraphs, functions and references to files."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shared.errors import ProgramError
from shared.operators.findings import Findings
from shared.operators.onnx_lists import ALLOWED, DOMAINS, MOST_ITERATIONS, SHAPES, SIZES, STEERED
from shared.policy.manifest import WEIGHTS_FILE

if TYPE_CHECKING:
    import onnx

_MOST_DEPTH = 32
_UNBOUNDED = "Loop without a bound"
_RANDOM = "Dropout in training mode"


def read_graph(data: bytes, allowed: frozenset[str]) -> Findings:
    """Return the operators of a graph. Raises ProgramError unless it is one, complete but for ``weights.safetensors``.

    Fields that this release of ONNX does not know are refused: another reader may know them.
    """
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, and RecursionError
        raise ProgramError(f"not an ONNX graph: {error}") from error
    _refuse_unknown_fields(model)
    reader = _GraphReader(model, allowed)
    reader.read()
    return Findings(frozenset(reader.operators), tuple(reader.refused.items()), reader.data_dependent)


def _refuse_unknown_fields(model: "onnx.ModelProto") -> None:
    known = type(model)()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.ByteSize() != model.ByteSize():
        raise ProgramError("export again with the release of ONNX here: the graph has fields that it does not know")
    if model.training_info:
        raise ProgramError("export the graph for inference: it has training information")


class _GraphReader:
    """Walks one model. A value is static when it follows from shapes and constants of the graph alone."""

    def __init__(self, model: "onnx.ModelProto", allowed: frozenset[str]) -> None:
        self.operators: set[str] = set()
        self.refused: dict[str, str] = {}
        self.data_dependent = False
        self._model = model
        self._allowed = allowed
        self._functions = {(_domain(function.domain), function.name) for function in model.functions}

    def read(self) -> None:
        self._read_graph(self._model.graph, {}, 0)
        for function in self._model.functions:
            # The attributes and inputs of a function are its callers', so nothing in it counts as static.
            self._read_nodes(function.node, {}, 0)
            for attribute in function.attribute_proto:
                self._check_attribute(attribute, {}, 0)

    def _read_graph(self, graph: "onnx.GraphProto", outside: "dict[str, int | None]", depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise ProgramError(f"expected subgraphs nested at most {_MOST_DEPTH} deep")
        static = dict(outside)
        for value in graph.input:
            static.pop(value.name, None)
        for tensor in graph.initializer:
            self._check_tensor(tensor, is_initializer=depth == 0)
            static.pop(tensor.name, None)
            if not _is_external(tensor):
                static[tensor.name] = _integer(tensor)
        for sparse in graph.sparse_initializer:
            self._check_tensor(sparse.values, is_initializer=False)
            self._check_tensor(sparse.indices, is_initializer=False)
        for value in graph.input:  # an initializer under an input's name is a default, which a caller may replace
            static.pop(value.name, None)
        self._read_nodes(graph.node, static, depth)

    def _read_nodes(self, nodes: "Iterable[onnx.NodeProto]", static: "dict[str, int | None]", depth: int) -> None:
        for node in nodes:
            name = _name(node)
            self.operators.add(name)
            is_function = (_domain(node.domain), node.op_type) in self._functions
            if not is_function:
                self._check_node(name, node, static)
            for attribute in node.attribute:
                self._check_attribute(attribute, static, depth)
            is_plain = _domain(node.domain) == "" and not is_function and node.op_type not in STEERED
            reads_only_static = all(not read or read in static for read in node.input)
            if is_plain and (node.op_type in SHAPES or reads_only_static):
                static.update(dict.fromkeys(filter(None, node.output), _constant(node)))
            else:
                for output in node.output:
                    static.pop(output, None)

    def _check_node(self, name: str, node: "onnx.NodeProto", static: "dict[str, int | None]") -> None:
        is_plain = _domain(node.domain) == ""
        if not is_plain or node.op_type not in ALLOWED:
            self._refuse(name, "is not on the list of pure and deterministic operators")
        if not is_plain:
            return
        if node.op_type in STEERED:
            self.data_dependent = True
        inputs = list(node.input)
        read = [inputs[position] for position in SIZES.get(node.op_type, ()) if position < len(inputs)]
        if any(value and value not in static for value in read):
            self.data_dependent = True
        if node.op_type == "Loop":
            bound = static.get(inputs[0]) if inputs else None
            if not inputs or not inputs[0] or (bound is not None and not 0 <= bound <= MOST_ITERATIONS):
                self._refuse(_UNBOUNDED, f"may run for ever (at most {MOST_ITERATIONS} iterations are allowed)")
        # The third input of Dropout and an attribute of BatchNormalization turn training on.
        if node.op_type == "Dropout" and len(inputs) > 2 and inputs[2] and static.get(inputs[2]) != 0:
            self._refuse(_RANDOM, "is random")
        if node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute):
            self._refuse("BatchNormalization in training mode", "mixes the rows of a batch")

    def _check_attribute(self, attribute: "onnx.AttributeProto", static: "dict[str, int | None]", depth: int) -> None:
        for tensor in (
            attribute.t,
            attribute.sparse_tensor.values,
            attribute.sparse_tensor.indices,
            *attribute.tensors,
        ):
            self._check_tensor(tensor, is_initializer=False)
        for sparse in attribute.sparse_tensors:
            self._check_tensor(sparse.values, is_initializer=False)
            self._check_tensor(sparse.indices, is_initializer=False)
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            self._read_graph(graph, static, depth + 1)

    def _check_tensor(self, tensor: "onnx.TensorProto", *, is_initializer: bool) -> None:
        """Raise ProgramError for a reference to a file, unless an initializer of the model refers to the weights."""
        if not _is_external(tensor):
            return
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if not is_initializer or locations != [WEIGHTS_FILE]:
            raise ProgramError(
                f"keep every value in the graph or in {WEIGHTS_FILE}: {tensor.name!r} refers to the file {locations}"
            )

    def _refuse(self, name: str, reason: str) -> None:
        self.data_dependent = True  # nothing is known of it
        if name not in self._allowed:
            self.refused.setdefault(name, reason)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL or tensor.external_data)


def _domain(domain: str) -> str:
    return "" if domain in DOMAINS else domain


def _name(node: "onnx.NodeProto") -> str:
    if not isinstance(node.op_type, str) or not isinstance(node.domain, str):  # bytes where protobuf found no UTF-8
        raise ProgramError("not an ONNX graph: the name of an operator is not UTF-8")
    domain = _domain(node.domain)
    return f"{domain}::{node.op_type}" if domain else node.op_type


def _constant(node: "onnx.NodeProto") -> int | None:
    """Return the integer of a Constant node with one, else None."""
    if node.op_type != "Constant" or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value_int":
        return int(attribute.i)
    return _integer(attribute.t) if attribute.name == "value" else None


def _integer(tensor: "onnx.TensorProto") -> int | None:
    """Return the value of a tensor of one integer or boolean, else None."""
    import onnx

    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    if tensor.data_type not in whole or any(size != 1 for size in tensor.dims):
        return None
    try:
        return int(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])
    except Exception:  # noqa: BLE001 - a malformed tensor has no value; ONNX Runtime refuses it
        return None
