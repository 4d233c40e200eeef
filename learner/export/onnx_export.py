"""Export to an ONNX graph of a few kilobytes whose weights are in ``weights.safetensors``.

The graph refers to each tensor by its place in that file, and is the same to the byte for all versions: no constant is
folded, and the exporter's file names and line numbers are removed.
"""

from collections.abc import Mapping

import onnx
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]
from torch import nn

from learner.export.flat_module import FlatInterface, quietly
from learner.export.inputs.dynamic_sizes import BATCH
from learner.export.onnx_forms import STABLE_FORMS
from shared.errors import ExportError
from shared.policy.manifest import WEIGHTS_FILE
from shared.policy.weights import TensorPlace

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_NOT_COMPUTING = ("metadata_props", "doc_string", "value_info")
_VALUES = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def export_onnx(
    module: nn.Module, interface: FlatInterface, places: Mapping[str, TensorPlace], *, keep_constants: bool = False
) -> bytes:
    """Return the graph of ``module``, a function of one list of tensors, with its weights at ``places``. Takes seconds.

    Raises ExportError if the exporter fails, or, without ``keep_constants``, for a float in it that is no weight.
    """
    model = _export_model(module, interface)
    _drop_casts_of_constants(model.graph)
    for initializer in model.graph.initializer:
        if initializer.name in places or not keep_constants:
            _refer_to_weights(initializer, places)
    _strip(model)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def _export_model(module: nn.Module, interface: FlatInterface) -> onnx.ModelProto:
    shapes = interface.dynamic_shapes(torch.export.Dim(BATCH))
    with quietly():
        try:
            program = torch.onnx.export(
                module,
                (list(interface.example),),
                dynamo=True,
                optimize=False,
                input_names=interface.input_names,
                output_names=interface.output_names,
                dynamic_shapes=(shapes,),
                custom_translation_table=dict(STABLE_FORMS),
                verbose=False,
            )
        except Exception as error:  # the exporter's own errors, and whatever a policy's code raises
            raise ExportError(f"torch.onnx.export: {_root(error)}") from error
    assert program is not None
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    found = [[value.name for value in values] for values in (model.graph.input, model.graph.output)]
    expected = [list(interface.input_names), list(interface.output_names)]
    if found != expected:
        raise ExportError(f"expected the graph's inputs and outputs {expected}, found {found}")
    return model


def _drop_casts_of_constants(graph: onnx.GraphProto) -> None:
    """Remove CastLike nodes that cast a constant to its own type: ONNX Runtime runs each at every call."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # a branch may read values from outside of it
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
    """Return the first line of the original error: the exporter's own messages are pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _refer_to_weights(initializer: onnx.TensorProto, places: Mapping[str, TensorPlace]) -> None:
    place = places.get(initializer.name)
    if place is None:
        if initializer.data_type in _FLOATS:
            raise ExportError(
                f"make {initializer.name} part of the weights with register_buffer: the graph holds it, and it is none "
                "of the policy's parameters and buffers, so new weights might have no effect on it"
            )
        return
    found = (str(onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type)), tuple(initializer.dims))
    if found != (place.dtype, place.shape):
        raise ExportError(f"{initializer.name}: expected {place.dtype} {place.shape}, found {found[0]} {found[1]}")
    for field in _VALUES:
        initializer.ClearField(field)
    initializer.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", place.offset), ("length", place.length)):
        initializer.external_data.add(key=key, value=str(value))


def _strip(message: Message) -> None:
    """Remove file names, line numbers and the shapes of intermediate values, here and in all that is inside."""
    for field, value in message.ListFields():
        if field.name in _NOT_COMPUTING:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                _strip(child)
