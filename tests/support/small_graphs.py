"""Small ONNX graphs, compared between ONNX Runtime and compiled code."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.engines.llvm import LlvmEngine
from shared.engines.onnx import OnnxEngine

BATCH_SIZES = (1, 5, 6, 15, 16, 17, 64)
"""Single rows, a partly filled block, a full one, both, several."""

Arrays = Mapping[str, np.ndarray]
Spec = tuple[str, tuple[int, ...]]
"""Dtype and shape of a graph's input or output, without the batch dimension."""


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node; ``inputs`` are names separated by spaces, ``_`` for an absent optional one."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, [output], **attributes)


def nodes(text: str) -> list[onnx.NodeProto]:
    """Return nodes from text such as ``"Gemm x w _ -> h transB=1; Tanh h -> y"``; see ``node``."""
    made = []
    for each in text.split(";"):
        read, written = each.split("->")
        operator, _, inputs = read.strip().partition(" ")
        output, *attributes = written.split()
        made.append(node(operator, inputs, output, **{k: int(v) for k, v in (a.split("=") for a in attributes)}))
    return made


def f32(*shape: int) -> Spec:
    """Return the spec of a float32 input or output."""
    return "float32", shape


def graph(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Mapping[str, Spec],
    outputs: Mapping[str, Spec],
    weights: Arrays | None = None,
    constants: Arrays | None = None,
    opset: int = 20,
) -> bytes:
    """Return a serialised graph with ``weights`` outside of it and ``constants`` inside."""
    made = helper.make_graph(
        list(nodes),
        "policy",
        [_described(name, spec) for name, spec in inputs.items()],
        [_described(name, spec) for name, spec in outputs.items()],
        initializer=[
            *(_external(name, array) for name, array in (weights or {}).items()),
            *(numpy_helper.from_array(array, name) for name, array in (constants or {}).items()),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


def _described(name: str, spec: Spec) -> onnx.ValueInfoProto:
    dtype, shape = spec
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["batch", *shape])


def _external(name: str, array: np.ndarray) -> TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.safetensors"), ("offset", 0), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def numbers(spec: Spec, rows: int, seed: int = 0) -> np.ndarray:
    """Return rows for an input: floats around 0, or small integers."""
    dtype, shape = spec
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal((rows, *shape)).astype(dtype)
    return generator.integers(0, 2 if dtype == "bool" else 5, (rows, *shape)).astype(dtype)


def wide_numbers(spec: Spec, rows: int, seed: int = 0) -> np.ndarray:
    """Return rows of floats of every magnitude for an input, or small integers."""
    dtype, shape = spec
    if np.dtype(dtype).kind != "f":
        return numbers(spec, rows, seed)
    return np.random.default_rng(seed).choice(_WIDE, (rows, *shape)).astype(dtype)


WIDE_SIZES = (1, 2, 7, 33, 64)
_WIDE = [0.0, *(sign * size for size in (1e-6, 1.0, 10.0, 100.0, 1e4) for sign in (1, -1))]


def assert_equals_onnxruntime(
    data: bytes,
    inputs: Mapping[str, Spec],
    weights: Arrays | None = None,
    *,
    sizes: Sequence[int] = BATCH_SIZES,
    wide_sizes: Sequence[int] = (),
) -> None:
    """Compare floats to 1e-5 + 1e-5 |x|, and integers and bools exactly; ``wide_sizes`` have wide inputs."""
    compiled, reference = LlvmEngine(data, weights or {}), OnnxEngine(data, weights or {}, bind=False)
    for rows, draw in [*((n, numbers) for n in sizes), *((n, wide_numbers) for n in wide_sizes)]:
        arrays = [draw(spec, rows, seed) for seed, spec in enumerate(inputs.values())]
        for mine, expected in zip(compiled.run(arrays), reference.run(arrays), strict=True):
            assert (mine.dtype, mine.shape) == (expected.dtype, expected.shape)
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(mine, expected)
