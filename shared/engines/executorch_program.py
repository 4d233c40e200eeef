"""ExecuTorch programs as files: a ``.pte``, and behind it the layout of the weights, which are no part of it.

ExecuTorch reads a ``.pte`` by the offsets in its header, so a runtime that does not know the layout reads the file too.
At load time it takes the weights from a data map (``.ptd``): its head is the same for all versions, and new weights are
copied to their places behind it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from shared.errors import ProgramError
from shared.policy.tensor_limits import MAX_TENSORS

_MAGIC = b"RLHSPTE1"
_LENGTH_BYTES = 8
_MOST_BYTES = 8 * 2**30


class WeightPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Place of a weight in the data map, and the order in which its axes lie there."""

    weight: str
    axes: tuple[int, ...]
    offset: int


class DataLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data map without the weights, and the batch sizes of the program.

    Args:
        head: the first bytes of the data map; zeros and weights follow.
        size: the size of the data map in bytes, 0 for a program without weights.
        rows: the most rows of one call, None for a program without batch.
        splits: True if larger batches may be split, as each row is computed from that row alone.
    """

    head: bytes
    size: int
    places: tuple[WeightPlace, ...]
    rows: int | None
    splits: bool


class ExecutorchProgram(NamedTuple):
    pte: bytes
    layout: DataLayout


def encode_program(program: ExecutorchProgram) -> bytes:
    """Return the file of a program. Equal programs give equal bytes."""
    layout = msgspec.msgpack.encode(program.layout)
    return program.pte + layout + len(layout).to_bytes(_LENGTH_BYTES, "little") + _MAGIC


def decode_program(data: bytes) -> ExecutorchProgram:
    """Read a file. Raises ProgramError."""
    end = len(data) - _LENGTH_BYTES - len(_MAGIC)
    length = int.from_bytes(data[end : end + _LENGTH_BYTES], "little") if end >= 0 else 0
    if not data.endswith(_MAGIC) or length > end:
        raise ProgramError("export again with this project: the file is no ExecuTorch program with a layout of weights")
    try:
        layout = msgspec.msgpack.decode(data[end - length : end], type=DataLayout)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProgramError(f"not a layout of weights: {error}") from error
    if not len(layout.head) <= layout.size <= _MOST_BYTES or len(layout.places) > MAX_TENSORS:
        raise ProgramError(f"a layout of {layout.size} bytes with {len(layout.places)} tensors is beyond the limits")
    return ExecutorchProgram(data[: end - length], layout)


def data_map(layout: DataLayout, weights: Mapping[str, np.ndarray]) -> bytes:
    """Return the data map with ``weights``. Raises ProgramError for a layout that they do not fit."""
    data = bytearray(layout.size)
    data[: len(layout.head)] = layout.head
    for place, view in zip(layout.places, weight_views(layout, data, weights), strict=True):
        np.copyto(view, weights[place.weight], casting="no")
    return bytes(data)


def weight_views(layout: DataLayout, data: bytes | bytearray, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return, for each place of the layout, the array in ``data``, with the shape and dtype of the weight."""
    views = []
    for place in layout.places:
        weight = weights.get(place.weight)
        if weight is None or sorted(place.axes) != list(range(weight.ndim)):
            raise ProgramError(f"the layout places a tensor that is no weight of the version: {place.weight[:80]!r}")
        if not len(layout.head) <= place.offset <= layout.size - weight.nbytes:
            raise ProgramError(f"the layout places {place.weight[:80]!r} outside of the data")
        shape = tuple(weight.shape[axis] for axis in place.axes)
        flat = np.frombuffer(data, weight.dtype, math.prod(shape), place.offset)
        views.append(flat.reshape(shape).transpose(np.argsort(place.axes)))
    return views
