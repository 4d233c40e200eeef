"""A policy as an ONNX graph of a few kilobytes whose weights stand in ``weights.safetensors``.

The graph refers to each tensor by its place in that file, and so is byte for byte the same from version to version. Two
snares, both met: an exporter that folds constants leaves a graph in which new weights have no effect, and what an
exporter notes of files and lines makes equal programs look different.
"""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx
import torch
from torch import Tensor, nn

from learner.export.export_verdicts import EXAMPLE_ROWS
from shared.errors import ExportError
from shared.policy.probe import make_inputs
from shared.policy.signature import PolicySignature
from shared.policy.weights import TensorPlace

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_VALUES = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def export_onnx(
    module: nn.Module, signature: PolicySignature, places: Mapping[str, TensorPlace], weights_file: str
) -> bytes:
    """The graph of ``module``, whose initializers are read from ``weights_file`` at ``places``. Takes seconds.

    Inputs and outputs are named as in the signature, but for the state that comes out, ``next_state.…``: no two names
    of a graph may be alike.
    Raises ExportError where the exporter fails, or where a float in the graph is none of the policy's weights.
    """
    example = [torch.from_numpy(array) for array in make_inputs(signature, EXAMPLE_ROWS, seed=0)]
    outputs = [f"next_{spec.name}" if spec.role == "state" else spec.name for spec in signature.outputs]
    model = export_model(module, example, [0] * len(example), signature.input_names, outputs)
    return with_weights_outside(model, places, weights_file)


def export_model(
    module: nn.Module,
    example: Sequence[Tensor],
    batch_dims: Sequence[int | None],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> onnx.ModelProto:
    """``torch.onnx.export`` of a module whose ``forward`` takes and returns one list of tensors. Raises ExportError."""
    batch = torch.export.Dim("batch")
    shapes = [{} if dim is None else {dim: batch} for dim in batch_dims]
    with _quietly():
        try:
            program = torch.onnx.export(
                module,
                (list(example),),
                dynamo=True,
                optimize=False,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=(shapes,),
                verbose=False,
            )
        except Exception as error:  # the exporter's own errors, and whatever a policy's code raises
            raise ExportError(f"torch.onnx.export: {_root(error)}") from error
    assert program is not None
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    found = [[value.name for value in values] for values in (model.graph.input, model.graph.output)]
    if found != [list(input_names), list(output_names)]:
        raise ExportError(f"expected the graph's inputs and outputs {input_names}, {output_names}; found {found}")
    _drop_casts_of_constants(model.graph)
    return model


def with_weights_outside(
    model: onnx.ModelProto, places: Mapping[str, TensorPlace], weights_file: str, *, keep_constants: bool = False
) -> bytes:
    """The graph's bytes, with every weight read from ``weights_file`` at its place.

    Raises ExportError for a float that is no weight, unless ``keep_constants``: it may have been computed from one.
    """
    for initializer in model.graph.initializer:
        if initializer.name not in places and keep_constants:
            continue
        _refer_to_weights(initializer, places, weights_file)
    _strip(model)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def _drop_casts_of_constants(graph: onnx.GraphProto) -> None:
    """Take out CastLike nodes that cast a constant to the type that it has: ONNX Runtime runs each at every call."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # a branch may read what stands outside of it
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants: dict[str, int] = {}
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t.data_type
        if node.op_type == "CastLike" and constants.get(node.input[0]) == types.get(node.input[1], -1):
            instead[node.output[0]] = node.input[0]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    outputs = {output.name for output in graph.output}
    if instead and outputs.isdisjoint(instead):
        graph.ClearField("node")
        graph.node.extend(kept)


def _root(error: BaseException) -> str:
    """What was wrong in the first place, in one line: the exporter's own messages are pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _refer_to_weights(initializer: onnx.TensorProto, places: Mapping[str, TensorPlace], weights_file: str) -> None:
    place = places.get(initializer.name)
    if place is None:
        if initializer.data_type in _FLOATS:
            raise ExportError(
                f"the graph holds {initializer.name}, which is none of the policy's parameters and buffers, so that "
                "new weights might have no effect on it; register_buffer makes a tensor part of the weights"
            )
        return
    found = (str(onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type)), tuple(initializer.dims))
    if found != (place.dtype, place.shape):
        raise ExportError(f"{initializer.name}: expected {place.dtype} {place.shape}, found {found[0]} {found[1]}")
    for field in _VALUES:
        initializer.ClearField(field)
    initializer.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", weights_file), ("offset", place.offset), ("length", place.length)):
        initializer.external_data.add(key=key, value=str(value))


def _strip(model: onnx.ModelProto) -> None:
    """Take out what does not compute: file names, line numbers, shapes in between."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    _strip_graph(model.graph)
    for function in model.functions:
        function.ClearField("metadata_props")
        function.ClearField("doc_string")
        _strip_nodes(function.node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    graph.ClearField("value_info")
    for described in (*graph.input, *graph.output, *graph.initializer):
        described.ClearField("metadata_props")
        described.ClearField("doc_string")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip_graph(graph)


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter warns of its own deprecations, and prints whole programs where it fails."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
