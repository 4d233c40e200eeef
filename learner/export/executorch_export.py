"""Export to an ExecuTorch program whose weights are outside of it.

The program is made with stand-ins for the weights, all of different values: so it is the same for all versions, and
each constant outside of it is recognised as one of the weights. A constant that is computed from weights is refused.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from learner.export.flat_module import FlatInterface, quietly
from learner.export.inputs.dynamic_sizes import BATCH
from learner.export.program_checks import write_weights
from shared.engines.executorch_program import DataLayout, ExecutorchProgram, WeightPlace, encode_program
from shared.errors import ExportError, one_line
from shared.policy.weights import is_float

_TAG = "weights"  # the name of the data map among the results of ExecuTorch
_MOST_CHARACTERS = 400

Weights = Mapping[str, np.ndarray]


def export_executorch(
    module: nn.Module, interface: FlatInterface, weights: Weights, *, rows: int, splits: bool, xnnpack: bool
) -> bytes:
    """Return the file of ``module``, a function of one list of tensors, whose weights are overwritten. Takes seconds.

    Args:
        rows: the most rows of one call. The runtime reserves memory for them.
        splits: True for a module that computes each row from that row alone.
        xnnpack: True for the kernels of XNNPACK where it has some, False for those of ExecuTorch only.

    Raises ExportError.
    """
    stand_ins = {name: _stand_in(name, array) for name, array in weights.items()}
    write_weights(module, stand_ins)
    shapes = (interface.dynamic_shapes(torch.export.Dim(BATCH, min=1, max=rows)),)
    has_batch = any(dim is not None for dim in interface.batch_dims)
    try:
        with quietly(), torch.no_grad():
            pte, data = _lowered(module, (list(interface.example),), shapes, frozenset(stand_ins), xnnpack=xnnpack)
            head, size, places = (b"", 0, ()) if data is None else _read_data_map(data, stand_ins)
    except ExportError:
        raise
    except Exception as error:  # the errors of two exporters are many, and a policy's own code may raise anything
        reason = one_line(error, _MOST_CHARACTERS)
        raise ExportError(f"ExecuTorch: {type(error).__name__}: {reason}") from error
    layout = DataLayout(head, size, places, rows if has_batch else None, splits and has_batch)
    return encode_program(ExecutorchProgram(pte, layout))


def _stand_in(name: str, array: np.ndarray) -> np.ndarray:
    """Return floats that depend on the name alone, and other arrays as they are."""
    if not is_float(array.dtype):
        return array
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).uniform(0.5, 1.5, array.shape).astype(array.dtype)


def _lowered(
    module: nn.Module, example: tuple[Any, ...], shapes: Any, names: frozenset[str], *, xnnpack: bool
) -> tuple[bytes, bytes | None]:
    """Return the program and its data map, or None for a program without weights."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes.external_constants_pass import delegate_external_constants_pass_unlifted

    program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
    partitioners = []
    if xnnpack:
        plain = program.module()
        delegate_external_constants_pass_unlifted(plain, lambda node: _TAG if str(node.target) in names else None)
        program = torch.export.export(plain, example, dynamic_shapes=shapes, strict=False)
        partitioners = [XnnpackPartitioner()]
    edge = to_edge_transform_and_lower(
        program, partitioner=partitioners, compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    signature = edge.exported_program().graph_signature
    given = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    made = edge.to_executorch(
        ExecutorchBackendConfig(external_constants=lambda node: _TAG if given.get(node.name) in names else None)
    )
    data = made._tensor_data.get(_TAG)
    return bytes(made.buffer), None if data is None else bytes(data)


def _read_data_map(data: bytes, weights: Weights) -> tuple[bytes, int, tuple[WeightPlace, ...]]:
    """Return the head, the size, and the places of the weights of a data map (``.ptd``). Raises ExportError."""
    from executorch.extension.flat_tensor.serialize.serialize import (
        FlatTensorHeader,
        _deserialize_to_flat_tensor,
    )

    header = FlatTensorHeader.from_bytes(data[8:])
    base = header.segment_base_offset
    flat = _deserialize_to_flat_tensor(data[: header.flatbuffer_offset + header.flatbuffer_size])
    places: dict[int, WeightPlace] = {}
    for named in flat.named_data:
        segment = flat.segments[named.segment_index]
        offset = base + segment.offset
        place = _place(named.key, data[offset : offset + segment.size], offset, weights)
        if places.setdefault(offset, place).weight != place.weight:
            raise ExportError(f"two weights have equal values and one place: {places[offset].weight}, {place.weight}")
    return data[:base], len(data), tuple(places[offset] for offset in sorted(places))


def _place(key: str, values: bytes, offset: int, weights: Weights) -> WeightPlace:
    """Return the weight whose values these are, by its name or in another order of its axes. Raises ExportError."""
    candidates = {key: weights[key]} if key in weights else weights
    for name, array in candidates.items():
        if array.nbytes == len(values):
            for axes in _orders(array.ndim):
                if array.transpose(axes).tobytes() == values:
                    return WeightPlace(name, axes, offset)
    raise ExportError("ExecuTorch computes a constant from weights, which new weights would not reach")


def _orders(ndim: int) -> Iterator[tuple[int, ...]]:
    yield tuple(range(ndim))
    if ndim == 2:
        yield (1, 0)
    elif ndim > 2:
        yield (0, *range(2, ndim), 1)  # channels last
