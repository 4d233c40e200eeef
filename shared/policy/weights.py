"""``weights.safetensors``: a policy's parameters and buffers as bytes, read without pickle, torch or a copy.

Reading is our own few lines, strict about what they accept: ``safetensors.numpy.load`` copies every tensor while it
holds the GIL, which an acting thread would feel, and the ONNX export needs each tensor's place in the file anyway.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import save

from shared.errors import WeightsError
from shared.files.buffer_pool import Data

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

# From version to version only the data change, so the last headers' meaning is kept; a large header is read again.
_LAYOUTS_KEPT = 8
_KEPT_HEADER_BYTES = 2**18
# What is looked at in one go stays in the cache, flags included.
_FINITE_AT_ONCE = 2**18


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


class DecodedWeights(dict[str, np.ndarray]):
    """Tensors by name, as they were found in a file: they cannot change, and every float of theirs is finite."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._found = dict(arrays)

    def is_as_found(self, name: str) -> bool:
        """Whether nobody has put another tensor in the place of this one."""
        return self._found.get(name) is self[name]


def decode_weights(data: Data) -> DecodedWeights:
    """Read-only views into ``data``. Raises WeightsError unless the file is well formed and every float is finite."""
    layout = _layout(data)
    arrays = _views(data, layout)
    if not all(_is_finite(np.frombuffer(data, span.dtype, span.length, span.offset)) for span in layout.floats):
        check_finite(arrays)
    return DecodedWeights(arrays)


def check_finite(weights: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError where a float is infinite or no number. What ``decode_weights`` found is not read again."""
    for name, array in weights.items():
        if isinstance(weights, DecodedWeights) and weights.is_as_found(name):
            continue  # of a large network it would take as long as copying it
        if array.dtype.kind == "f" and not _is_finite(array.reshape(-1)):
            raise WeightsError(f"{name} holds values that are not finite")


def decode_tensors(data: Data) -> dict[str, np.ndarray]:
    """Read-only views into ``data``, finite or not. Raises WeightsError unless the file is well formed."""
    return _views(data, _layout(data))


def tensor_places(data: Data) -> Mapping[str, TensorPlace]:
    """Where each tensor stands. Raises WeightsError unless the tensors fill the file without gap or overlap."""
    return _layout(data).places


class _Span(NamedTuple):
    """Floats of one type that stand side by side, whichever tensors they belong to; ``length`` counts them."""

    dtype: np.dtype[Any]
    offset: int
    length: int


class _Layout(NamedTuple):
    """What a header says, made ready for files that have the same."""

    places: Mapping[str, TensorPlace]
    views: Sequence[tuple[str, np.dtype[Any], int, int, tuple[int, ...]]]
    floats: Sequence[_Span]


def _layout(data: Data) -> _Layout:
    header = bytes(data[: data_start(data)])
    return (_read_layout if len(header) <= _KEPT_HEADER_BYTES else _read_layout.__wrapped__)(header, len(data))


@functools.lru_cache(maxsize=_LAYOUTS_KEPT)
def _read_layout(header: bytes, file_bytes: int) -> _Layout:
    start = len(header)
    places = {}
    end = 0
    for name, entry in sorted(_entries(header).items(), key=lambda item: item[1].data_offsets):
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
    if start + end != file_bytes:
        raise WeightsError(f"expected {start + end} bytes of weights, found {file_bytes}")
    views = [
        (name, dtype := np.dtype(place.dtype), place.length // dtype.itemsize, place.offset, place.shape)
        for name, place in places.items()
    ]
    return _Layout(MappingProxyType(places), views, tuple(_float_spans(places.values())))


def _float_spans(places: Iterable[TensorPlace]) -> Iterator[_Span]:
    """The floats of ``places``, which stand in the order of their offsets without gaps."""
    for dtype_name, group in itertools.groupby(places, key=lambda place: place.dtype):
        dtype = np.dtype(dtype_name)
        if dtype.kind == "f":
            members = list(group)
            yield _Span(dtype, members[0].offset, sum(place.length for place in members) // dtype.itemsize)


def _is_finite(floats: np.ndarray) -> bool:
    if len(floats) <= _FINITE_AT_ONCE:
        return bool(np.isfinite(floats).all())
    with np.errstate(all="ignore"):
        if np.isfinite(np.add.reduce(floats)):
            return True  # one infinity or NaN makes the sum one; the reverse does not hold, since a sum may overflow
    pieces = (floats[i : i + _FINITE_AT_ONCE] for i in range(0, len(floats), _FINITE_AT_ONCE))
    return all(np.isfinite(piece).all() for piece in pieces)


def data_start(data: Data) -> int:
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


def _entries(header: bytes) -> dict[str, _Entry]:
    try:
        raw: dict[str, Any] = msgspec.json.decode(header[_LENGTH_BYTES:], type=dict[str, Any])
        raw.pop("__metadata__", None)
        return msgspec.convert(raw, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"not a safetensors header: {error}") from error


def _views(data: Data, layout: _Layout) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(data, dtype, count, offset).reshape(shape)
        for name, dtype, count, offset, shape in layout.views
    }
