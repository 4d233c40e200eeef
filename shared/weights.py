"""``weights.safetensors``: a policy's parameters and buffers as bytes, read without pickle, torch or a copy.

Reading is our own few lines, strict about what they accept: ``safetensors.numpy.load`` copies every tensor while it
holds the GIL, which an acting thread would feel, and the ONNX export needs each tensor's place in the file anyway.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save

from shared.errors import WeightsError

MAX_HEADER_BYTES = 16 * 2**20
_LENGTH_BYTES = 8
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {np.dtype(numpy_name): name for name, numpy_name in _DTYPES.items()}


class TensorPlace(msgspec.Struct, frozen=True):
    """What one tensor of the file is, and where its bytes stand, counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def encode_weights(weights: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file. The same names, shapes and dtypes always give the same layout. Raises WeightsError."""
    for name, array in weights.items():
        if array.dtype not in _NAMES:
            raise WeightsError(f"{name}: {array.dtype} tensors have no place in {', '.join(_DTYPES)}")
    return bytes(save({name: np.asarray(weights[name], order="C") for name in sorted(weights)}))


def decode_weights(data: bytes) -> dict[str, np.ndarray]:
    """Read-only views into ``data``. Raises WeightsError unless the file is well formed and every float is finite."""
    arrays = decode_tensors(data)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WeightsError(f"{name} holds values that are not finite")
    return arrays


def decode_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Read-only views into ``data``, finite or not. Raises WeightsError unless the file is well formed."""
    return {name: _view(data, place) for name, place in tensor_places(data).items()}


def tensor_places(data: bytes) -> dict[str, TensorPlace]:
    """Where each tensor stands. Raises WeightsError unless the tensors fill the file without gap or overlap."""
    entries = _header(data)
    start = data_start(data)
    places = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, finish = entry.data_offsets
        if entry.dtype not in _DTYPES or any(n < 0 for n in entry.shape):
            raise WeightsError(f"{name}: expected a shape and one of {', '.join(_DTYPES)}; found {entry}")
        dtype = np.dtype(_DTYPES[entry.dtype])
        length = dtype.itemsize
        for n in entry.shape:
            length *= n
        if begin != end or finish != begin + length:
            raise WeightsError(f"{name}: expected bytes {end} to {end + length}, found {begin} to {finish}")
        end = finish
        places[name] = TensorPlace(str(dtype), entry.shape, start + begin, length)
    if start + end != len(data):
        raise WeightsError(f"expected {start + end} bytes of weights, found {len(data)}")
    return places


def data_start(data: bytes) -> int:
    """Where the header ends: files that agree up to here have the same layout. Raises WeightsError."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > MAX_HEADER_BYTES or _LENGTH_BYTES + length > len(data):
        raise WeightsError(f"not a safetensors file: {len(data)} bytes with a header of {length}")
    return _LENGTH_BYTES + length


def check_layout(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError unless ``found`` has exactly the names, shapes and dtypes of ``expected``."""
    if expected.keys() != found.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise WeightsError(
            f"weights do not fit the program: missing {missing or 'none'}, not expected {extra or 'none'}"
        )
    for name, array in expected.items():
        other = found[name]
        if array.shape != other.shape or array.dtype != other.dtype:
            raise WeightsError(
                f"{name}: expected {array.dtype} {array.shape}, found {other.dtype} {other.shape}; "
                "these weights belong to another network"
            )


def _header(data: bytes) -> dict[str, _Entry]:
    try:
        raw: dict[str, Any] = msgspec.json.decode(data[_LENGTH_BYTES : data_start(data)], type=dict[str, Any])
        raw.pop("__metadata__", None)
        return msgspec.convert(raw, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"not a safetensors header: {error}") from error


def _view(data: bytes, place: TensorPlace) -> np.ndarray:
    count = place.length // np.dtype(place.dtype).itemsize
    return np.frombuffer(data, place.dtype, count, place.offset).reshape(place.shape)
