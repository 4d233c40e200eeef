"""ONNX graphs without ONNX Runtime: their external weights, and pruning to some of their outputs."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import ProgramError, WeightsError
from shared.policy.tensor_limits import shape_fault
from shared.policy.weights import check_layout

if TYPE_CHECKING:
    import onnx


def external_initializers(graph: bytes) -> tuple[str, ...]:
    """Return the names of the initializers whose values are outside the graph. Raises ProgramError."""
    return tuple(_external_layout(graph))


def check_external_initializers(graph: bytes, weights: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError unless ``weights`` include all external initializers. Raises ProgramError."""
    layout = _external_layout(graph)
    if missing := sorted(layout.keys() - weights.keys()):
        raise WeightsError(f"weights do not fit the program: missing {missing}")
    check_layout(layout, {name: weights[name] for name in layout})


@functools.lru_cache(maxsize=4)
def _external_layout(graph: bytes) -> dict[str, np.ndarray]:
    """Map external initializers to arrays without memory. Other files are refused: they would not be verified."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    try:
        model = onnx.load_model_from_string(graph)
        outside = [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]
    except Exception as error:  # protobuf's DecodeError is one of several
        raise ProgramError(f"not an ONNX graph: {error}") from error
    initializers = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    names = [tensor.name for tensor in initializers]
    if len(outside) != len(names) or len(set(names)) != len(names):
        raise ProgramError("the ONNX graph refers to files beyond its initializers")
    try:
        dtypes = [onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in initializers]
    except KeyError as error:
        raise ProgramError(f"the ONNX graph has an initializer of an unknown dtype, {error}") from error
    for tensor, dtype in zip(initializers, dtypes, strict=True):
        if (fault := shape_fault(tensor.dims, dtype.itemsize)) is not None:
            raise ProgramError(f"{tensor.name[:80]}: {fault}")
    return {
        tensor.name: np.broadcast_to(np.empty((), dtype), tuple(tensor.dims))
        for tensor, dtype in zip(initializers, dtypes, strict=True)
    }


@functools.lru_cache(maxsize=4)
def keep_outputs(graph: bytes, positions: tuple[int, ...]) -> bytes:
    """Return the graph reduced to the outputs at ``positions`` and the nodes that they need. Raises ProgramError."""
    import onnx

    model = onnx.load_model_from_string(graph)
    if not all(0 <= position < len(model.graph.output) for position in positions):
        raise ProgramError(f"the ONNX graph has {len(model.graph.output)} outputs; expected some at {positions}")
    outputs = [model.graph.output[position] for position in positions]
    needed = {output.name for output in outputs}
    nodes = []
    for node in reversed(model.graph.node):  # in topological order: readers of an output come after it
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(_names_read([node]))
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    replace_fields(model.graph, output=outputs, node=nodes[::-1], initializer=initializers)
    kept_graph: bytes = model.SerializeToString(deterministic=True)
    return kept_graph


def with_weights_as_inputs(graph: bytes, names: Collection[str]) -> bytes:
    """Return the graph with the initializers ``names`` as further inputs, after its own."""
    import onnx

    model = onnx.load_model_from_string(graph)
    outside = [tensor for tensor in model.graph.initializer if tensor.name in names]
    inside = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    weights = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in outside]
    replace_fields(model.graph, input=[*model.graph.input, *weights], initializer=inside)
    open_graph: bytes = model.SerializeToString()
    return open_graph


def for_few_rows(graph: bytes, names: Collection[str]) -> bytes:
    """Return the graph with each ``x W^T + b`` computed as ``(W x^T)^T + b`` if ``W`` is one of ``names``.

    Unless the second factor of a product is a constant, ONNX Runtime reorders it at each call. For a few rows that
    takes several times as long as the product itself, and ``x^T`` is small.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    nodes = []
    for number, node in enumerate(model.graph.node):
        if not _is_linear(node, names):
            nodes.append(node)
            continue
        x, weight, *bias = node.input
        columns, product = f"rl_hotswap.columns.{number}", f"rl_hotswap.product.{number}"
        rows = f"rl_hotswap.rows.{number}" if bias else node.output[0]
        nodes.append(onnx.helper.make_node("Transpose", [x], [columns], perm=[1, 0]))
        nodes.append(onnx.helper.make_node("MatMul", [weight, columns], [product]))
        nodes.append(onnx.helper.make_node("Transpose", [product], [rows], perm=[1, 0]))
        if bias:
            nodes.append(onnx.helper.make_node("Add", [rows, *bias], node.output))
    replace_fields(model.graph, node=nodes)
    rewritten: bytes = model.SerializeToString()
    return rewritten


def _is_linear(node: "onnx.NodeProto", names: Collection[str]) -> bool:
    """Return True for ``x W^T + b`` or ``x W^T`` with ``W`` among ``names``."""
    import onnx

    if node.op_type != "Gemm" or node.domain not in ("", "ai.onnx") or node.input[1] not in names:
        return False
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    factors = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0))
    return factors == (1.0, 1.0) and (attributes.get("transA", 0), attributes.get("transB", 0)) == (0, 1)


def replace_fields(graph: "onnx.GraphProto", **fields: Sequence[Any]) -> None:
    """Replace repeated fields of ``graph`` with copies of the given messages."""
    for field, parts in fields.items():
        copies = [type(part).FromString(part.SerializeToString()) for part in parts]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _names_read(nodes: "Iterable[onnx.NodeProto]") -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _names_read(graph.node)
                yield from (output.name for output in graph.output)
