"""Translation of ONNX graphs to row programs. Graphs that mix rows or have other operators are refused."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.engines.row_compiler.constant_folding import dtype_of, fold_constant
from shared.engines.row_compiler.operators import ARITHMETIC
from shared.engines.row_compiler.row_builder import KINDS, RowBuilder, Tensor, Value, Weight
from shared.engines.row_compiler.row_program import Output, RowProgram
from shared.engines.row_compiler.shape_operators import SHAPES
from shared.engines.row_compiler.views import View
from shared.errors import ProgramUnsupported

if TYPE_CHECKING:
    import onnx

# Supported dtypes of outputs, and the kind of tensor that each is stored from.
_KIND_OF_OUTPUT = {**KINDS, "float16": "", "float64": "other"}
_TRANSLATIONS = {**ARITHMETIC, **SHAPES}
_OPSETS = range(13, 25)  # Clip, Slice and others were defined differently before


def read_graph(model: "onnx.ModelProto") -> RowProgram:
    """Return the row program of ``model``. Raises ProgramUnsupported for a graph that has none."""
    try:
        return _Reader(model).read()
    except ProgramUnsupported:
        raise
    except Exception as error:  # a malformed graph may raise anything
        raise ProgramUnsupported(f"a graph that cannot be read: {type(error).__name__}: {error}") from error


class _Reader:
    def __init__(self, model: "onnx.ModelProto") -> None:
        self._graph = model.graph
        self._opsets = model.opset_import
        self._build = RowBuilder()
        self._values: dict[str, Value] = {}
        self._batch = ""  # the graph's name of the batch size

    def read(self) -> RowProgram:
        opsets = [entry.version for entry in self._opsets if entry.domain in ("", "ai.onnx")]
        if len(opsets) != 1 or opsets[0] not in _OPSETS:
            raise ProgramUnsupported(f"operator sets {opsets}; {_OPSETS[0]} to {_OPSETS[-1]} are supported")
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
            self._values[tensor.name] = Weight(tensor.name, math.prod(tensor.dims), View.of(tensor.dims))
        # Other dtypes are refused when a node reads them.

    def _read_node(self, node: "onnx.NodeProto") -> None:
        import onnx

        operator = node.op_type
        if node.domain not in ("", "ai.onnx"):
            raise ProgramUnsupported(f"operator {node.domain}.{operator}")
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if unread := [name for name in node.input if name and name not in self._values]:
            raise ProgramUnsupported(f"{operator} reads {unread}, which is not float32")
        inputs = [self._values[name] if name else None for name in node.input]
        known = [value for value in inputs if isinstance(value, np.ndarray)]
        folded = fold_constant(operator, known, attributes) if len(known) == len(inputs) else None
        if folded is None and operator not in _TRANSLATIONS:
            raise ProgramUnsupported(f"operator {operator}")
        found = _TRANSLATIONS[operator](self._build, inputs, attributes) if folded is None else folded
        # Outputs after those that are translated are refused when a node reads them.
        self._values.update(zip(node.output, found if isinstance(found, tuple) else (found,), strict=False))

    def _output(self, argument: Any) -> Output:
        dtype, shape = self._described(argument)
        found = self._values.get(argument.name)
        if not isinstance(found, Tensor) or found.batch_axis != 0 or found.shape != (1, *shape):
            raise ProgramUnsupported(f"output {argument.name} is not computed row by row")
        if _KIND_OF_OUTPUT.get(str(dtype)) != found.kind:
            raise ProgramUnsupported(f"output {argument.name} of {dtype}")
        return Output(found.operand, str(dtype), shape)

    def _described(self, argument: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Return dtype and shape, without the batch dimension, of an input or output of the graph."""
        tensor = argument.type.tensor_type
        dimensions = tensor.shape.dim
        batch = dimensions[0].dim_param if dimensions else ""
        self._batch = self._batch or batch
        if named := [d.dim_param for d in dimensions[1:] if d.dim_param not in ("", self._batch)]:
            raise ProgramUnsupported(f"{argument.name} has the size {named[0][:80]}, which varies, besides the batch")
        if not batch or batch != self._batch or any(d.dim_value < 1 for d in dimensions[1:]):
            raise ProgramUnsupported(f"{argument.name} needs the batch dimension first, and only there")
        return dtype_of(tensor.elem_type), tuple(dimension.dim_value for dimension in dimensions[1:])
