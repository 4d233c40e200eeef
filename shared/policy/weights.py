"""Parameters and buffers in ``weights.safetensors``, read without pickle, torch or a copy.

The reader is our own because ``safetensors.numpy.load`` copies every tensor while it holds the GIL, and because the
ONNX export needs each tensor's offset. Format: https://huggingface.co/docs/safetensors.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import save

from shared.errors import WeightsError
from shared.files.buffer_pool import Data
from shared.files.strict_json import repeated_key
from shared.policy.tensor_limits import MAX_TENSORS, shape_fault

MAX_HEADER_BYTES = 4 * 2**20
_LENGTH_BYTES = 8
_SIZES = {"U": ("uint", (8, 16, 32, 64)), "I": ("int", (8, 16, 32, 64)), "F": ("float", (16, 32, 64))}
_BFLOAT16 = "bfloat16"
_DTYPES = {"BOOL": "bool", "BF16": _BFLOAT16} | {
    f"{letter}{bits}": f"{kind}{bits}" for letter, (kind, sizes) in _SIZES.items() for bits in sizes
}
TENSOR_DTYPES = {name: 2 if name == _BFLOAT16 else np.dtype(name).itemsize for name in _DTYPES.values()}
"""The dtypes that a file can hold, with the bytes of one number."""
_NON_FINITE = 0x7F80  # the exponent of infinities and NaN in the bits of a bfloat16

# Versions differ in data only, so the layouts of the last small headers are cached.
_LAYOUTS_KEPT = 8
_KEPT_HEADER_BYTES = 2**18
# So many floats, and the flags computed from them, stay in the processor's cache.
_FINITE_AT_ONCE = 2**18


class TensorPlace(msgspec.Struct, frozen=True):
    """Dtype, shape, and offset and length in bytes of one tensor; the offset counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def dtype_named(name: str) -> np.dtype[Any]:
    """Return numpy's dtype of that name. For ``bfloat16`` it is that of ml_dtypes, which is imported when needed."""
    if name == _BFLOAT16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Return True for floats, among them bfloat16, which numpy itself does not know."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Return True for the bfloat16 of ml_dtypes, which is not imported for the question."""
    return dtype.kind == "V" and dtype.name == _BFLOAT16


_Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[_Offset, _Offset]


def encode_weights(weights: Mapping[str, np.ndarray]) -> bytes:
    """Return a safetensors file. Equal names, shapes and dtypes give equal layouts. Raises WeightsError."""
    if len(weights) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS:,} tensors, found {len(weights):,}")
    for name, array in weights.items():
        if array.dtype.name not in TENSOR_DTYPES or not array.dtype.isnative:
            raise WeightsError(f"{name}: expected one of {', '.join(_DTYPES)}, found {array.dtype}")
    return bytes(save({name: np.asarray(weights[name], order="C") for name in sorted(weights)}))


class DecodedWeights(dict[str, np.ndarray]):
    """Tensors by name, read-only and with finite floats, as they were read from a file."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._original = dict(arrays)

    def is_original(self, name: str) -> bool:
        """Return True unless the tensor has been replaced by another one."""
        return self._original.get(name) is self[name]


def decode_weights(data: Data) -> DecodedWeights:
    """Return read-only views into ``data``. Raises WeightsError for a malformed file and for infinities or NaN."""
    layout = _layout(data)
    arrays = _views(data, layout)
    if not all(_is_finite(np.frombuffer(data, span.dtype, span.length, span.offset)) for span in layout.floats):
        check_finite(arrays)
    return DecodedWeights(arrays)


def have_equal_arrays(some: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    """Return True when every array of ``some`` equals the one of that name in ``others``."""
    return all(np.array_equal(array, others[name]) for name, array in some.items())


def check_weights(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError unless ``found`` has the layout of ``expected`` and only finite floats."""
    check_layout(expected, found)
    check_finite(found)


def check_finite(weights: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError for infinities or NaN. Tensors from ``decode_weights`` are not read again."""
    for name, array in weights.items():
        if isinstance(weights, DecodedWeights) and weights.is_original(name):
            continue  # checking a large network takes as long as copying it
        if is_float(array.dtype) and not _is_finite(array.ravel()):
            raise WeightsError(f"{name} holds values that are not finite")


def decode_tensors(data: Data) -> dict[str, np.ndarray]:
    """Return read-only views into ``data``, finite or not. Raises WeightsError for a malformed file."""
    return _views(data, _layout(data))


def tensor_places(data: Data) -> Mapping[str, TensorPlace]:
    """Return the place of each tensor. Raises WeightsError unless the tensors fill the file without gap or overlap."""
    return _layout(data).places


class _Span(NamedTuple):
    """``length`` adjacent floats of one dtype, of one tensor or several."""

    dtype: np.dtype[Any]
    offset: int
    length: int


class _Layout(NamedTuple):
    """Decoded header, for all files with the same one."""

    places: Mapping[str, TensorPlace]
    views: Sequence[tuple[str, np.dtype[Any], int, int, tuple[int, ...]]]
    floats: Sequence[_Span]


def _layout(data: Data) -> _Layout:
    header = bytes(data[: data_start(data)])
    return (_read_layout if len(header) <= _KEPT_HEADER_BYTES else _read_layout.__wrapped__)(header, len(data))


@functools.lru_cache(maxsize=_LAYOUTS_KEPT)
def _read_layout(header: bytes, file_bytes: int) -> _Layout:
    places, start, end = {}, len(header), 0
    for name, entry in sorted(_entries(header).items(), key=lambda item: item[1].data_offsets):
        begin, finish = entry.data_offsets
        if entry.dtype not in _DTYPES:
            raise WeightsError(f"{name[:80]}: expected one of {', '.join(_DTYPES)}; found {entry.dtype[:40]!r}")
        dtype = dtype_named(_DTYPES[entry.dtype])
        if (fault := shape_fault(entry.shape, dtype.itemsize)) is not None:
            raise WeightsError(f"{name[:80]}: {fault}")
        length = dtype.itemsize * math.prod(entry.shape)
        if begin != end or finish != begin + length:
            raise WeightsError(f"{name[:80]}: expected bytes {end} to {end + length}, found {begin} to {finish}")
        end = finish
        places[name] = TensorPlace(dtype.name, entry.shape, start + begin, length)
    if start + end != file_bytes:
        raise WeightsError(f"expected {start + end} bytes of weights, found {file_bytes}")
    views = [
        (name, dtype := dtype_named(place.dtype), place.length // dtype.itemsize, place.offset, place.shape)
        for name, place in places.items()
    ]
    return _Layout(MappingProxyType(places), views, tuple(_float_spans(places.values())))


def _float_spans(places: Iterable[TensorPlace]) -> Iterator[_Span]:
    """Yield the floats of ``places``, which are ordered by offset and have no gaps."""
    for dtype_name, group in itertools.groupby(places, key=lambda place: place.dtype):
        dtype = dtype_named(dtype_name)
        if is_float(dtype):
            members = list(group)
            yield _Span(dtype, members[0].offset, sum(place.length for place in members) // dtype.itemsize)


def _is_finite(floats: np.ndarray) -> bool:
    if is_bfloat16(floats.dtype):
        return not bool(((floats.view(np.uint16) & _NON_FINITE) == _NON_FINITE).any())
    if len(floats) <= _FINITE_AT_ONCE:
        return bool(np.isfinite(floats).all())
    with np.errstate(all="ignore"):
        if np.isfinite(np.add.reduce(floats)):
            return True  # an infinity or NaN makes the sum non-finite; so may an overflow
    pieces = (floats[i : i + _FINITE_AT_ONCE] for i in range(0, len(floats), _FINITE_AT_ONCE))
    return all(np.isfinite(piece).all() for piece in pieces)


def data_start(data: Data) -> int:
    """Return the length of the header in bytes. Files with equal headers have equal layouts. Raises WeightsError."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES or _LENGTH_BYTES + length > len(data):
        raise WeightsError(f"not a safetensors file: {len(data)} bytes with a header of {length}")
    return _LENGTH_BYTES + length


def check_layout(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError unless ``found`` has exactly the names, shapes and dtypes of ``expected``."""
    if expected.keys() != found.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise WeightsError(f"weights do not fit the program: missing {missing or 'none'}, unexpected {extra or 'none'}")
    for name, array in expected.items():
        other = found[name]
        if array.shape != other.shape or array.dtype != other.dtype:
            raise WeightsError(
                f"these weights belong to another network: {name}: expected {array.dtype} {array.shape}, "
                f"found {other.dtype} {other.shape}"
            )


def _entries(header: bytes) -> dict[str, _Entry]:
    text = header[_LENGTH_BYTES:]
    try:
        raw = msgspec.json.decode(text, type=dict[str, Any])
        if msgspec.json.encode(raw) != text.rstrip() and (key := repeated_key(text)) is not None:
            raise WeightsError(f"expected every key of the header once, found {key!r} twice in one object")
        raw.pop("__metadata__", None)
        if len(raw) > MAX_TENSORS:
            raise WeightsError(f"expected at most {MAX_TENSORS:,} tensors, found {len(raw):,}")
        return msgspec.convert(raw, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"not a safetensors header: {error}") from error


def _views(data: Data, layout: _Layout) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(data, dtype, count, offset).reshape(shape)
        for name, dtype, count, offset, shape in layout.views
    }
