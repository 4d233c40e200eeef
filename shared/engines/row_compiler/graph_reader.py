"""Reads ONNX graphs as programs for one row, where they are that. A graph that mixes rows, or knows more, is refused.

What depends on nothing but constants and the batch's size, as the shapes that exporters carry along, is worked out.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.engines.row_compiler.known_values import dtype_of, work_out
from shared.engines.row_compiler.operators import TRANSLATIONS
from shared.engines.row_compiler.row_builder import RowBuilder, Tensor, Value, Weight
from shared.engines.row_compiler.row_program import Output, RowProgram
from shared.errors import ProgramUnsupported

if TYPE_CHECKING:
    import onnx

# What code for an output of each dtype is given: no other dtype, and no other kind.
_KIND_OF_OUTPUT = {
    "float32": "float",
    "float64": "other",
    "bool": "truth",
    **dict.fromkeys(("int32", "int64"), "number"),
    **dict.fromkeys(("int8", "int16", "uint8", "uint16"), "narrow"),
}
_OPSETS = range(13, 25)  # before, Clip, Slice and others were described otherwise


def read_graph(model: "onnx.ModelProto") -> RowProgram:
    """Raises ProgramUnsupported for what is no program for one row, or has an operator that is not known here."""
    try:
        return _Reader(model).read()
    except ProgramUnsupported:
        raise
    except Exception as error:  # whatever a graph holds that no exporter writes
        raise ProgramUnsupported(f"a graph that cannot be read: {type(error).__name__}: {error}") from error


class _Reader:
    def __init__(self, model: "onnx.ModelProto") -> None:
        self._graph = model.graph
        self._opsets = model.opset_import
        self._build = RowBuilder()
        self._values: dict[str, Value] = {}
        self._batch = ""  # what the graph calls the batch's size

    def read(self) -> RowProgram:
        opsets = [entry.version for entry in self._opsets if entry.domain in ("", "ai.onnx")]
        if len(opsets) != 1 or opsets[0] not in _OPSETS:
            raise ProgramUnsupported(f"operator sets {opsets}; those from {_OPSETS[0]} to {_OPSETS[-1]} are known")
        for argument in self._graph.input:
            self._values[argument.name] = self._build.input(*self._described(argument))
        for tensor in self._graph.initializer:
            self._read_initializer(tensor)
        for node in self._graph.node:
            self._read_node(node)
        return self._build.program([self._output(argument) for argument in self._graph.output])

    def _read_initializer(self, tensor: "onnx.TensorProto") -> None:
        import onnx

        if not onnx.external_data_helper.uses_external_data(tensor):
            self._values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        elif tensor.data_type == onnx.TensorProto.FLOAT:
            self._values[tensor.name] = Weight(tensor.name, tuple(tensor.dims))
        # Others are refused where something reads them.

    def _read_node(self, node: "onnx.NodeProto") -> None:
        import onnx

        operator = node.op_type
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            raise ProgramUnsupported(f"operator {node.domain}.{operator} with {len(node.output)} outputs")
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if unread := [name for name in node.input if name and name not in self._values]:
            raise ProgramUnsupported(f"{operator} reads {unread}, which is no float32")
        inputs = [self._values[name] if name else None for name in node.input]
        known = [value for value in inputs if isinstance(value, np.ndarray)]
        result: Value | None = work_out(operator, known, attributes) if len(known) == len(inputs) else None
        if result is None:
            if operator not in TRANSLATIONS:
                raise ProgramUnsupported(f"operator {operator}")
            result = TRANSLATIONS[operator](self._build, inputs, attributes)
        self._values[node.output[0]] = result

    def _output(self, argument: Any) -> Output:
        dtype, shape = self._described(argument)
        found = self._values.get(argument.name)
        if not isinstance(found, Tensor) or not found.batched or found.shape != shape:
            raise ProgramUnsupported(f"output {argument.name} is not computed row by row")
        if _KIND_OF_OUTPUT.get(str(dtype)) != found.kind:
            raise ProgramUnsupported(f"output {argument.name} of {dtype}")
        return Output(found.operand, str(dtype), shape)

    def _described(self, argument: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype, and shape without the batch's dimension, of a graph's input or output."""
        tensor = argument.type.tensor_type
        dimensions = tensor.shape.dim
        batch = dimensions[0].dim_param if dimensions else ""
        self._batch = self._batch or batch
        if not batch or batch != self._batch or any(d.dim_value < 1 for d in dimensions[1:]):
            raise ProgramUnsupported(f"{argument.name} has not the batch's dimension in front, and only there")
        return dtype_of(tensor.elem_type), tuple(dimension.dim_value for dimension in dimensions[1:])
