import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import WeightsError
from shared.policy.weights import (
    MAX_HEADER_BYTES,
    check_finite,
    check_layout,
    check_weights,
    data_start,
    decode_tensors,
    decode_weights,
    encode_weights,
    tensor_places,
)

DTYPES = ["bool", "float16", "float32", "float64"]
DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shape = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **elements)))


WEIGHTS = st.dictionaries(
    st.text(min_size=1, max_size=10).filter(lambda name: name != "__metadata__"), tensors(), max_size=5
)


def file(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


@given(WEIGHTS)
def test_encoded_weights_are_decoded(weights: dict[str, np.ndarray]) -> None:
    decoded = decode_weights(encode_weights(weights))
    assert decoded.keys() == weights.keys()
    for name, array in weights.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(decoded[name], array)


@given(WEIGHTS)
def test_the_library_reads_the_same(weights: dict[str, np.ndarray]) -> None:
    data = encode_weights(weights)
    theirs, mine = safetensors.numpy.load(data), decode_weights(data)
    assert theirs.keys() == mine.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array, strict=True)


def test_reads_what_the_library_writes_with_metadata() -> None:
    data = safetensors.numpy.save({"w": np.arange(3)}, metadata={"format": "np"})
    np.testing.assert_array_equal(decode_weights(data)["w"], np.arange(3))


def test_the_layout_depends_on_names_and_shapes_alone() -> None:
    one = encode_weights({"b": np.zeros(3, np.float32), "a": np.zeros((2, 2))})
    two = encode_weights({"a": np.ones((2, 2)), "b": np.ones(3, np.float32)})
    assert one[: data_start(one)] == two[: data_start(two)]


def test_places_point_at_the_bytes() -> None:
    weights = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array(1.5)}
    data = encode_weights(weights)
    for name, place in tensor_places(data).items():
        assert data[place.offset : place.offset + place.length] == weights[name].tobytes()


@pytest.mark.parametrize("length", [0, 7, 8, 20, -1])
def test_a_file_cut_short_is_refused(length: int) -> None:
    data = encode_weights({"w": np.arange(10.0)})
    with pytest.raises(WeightsError):
        decode_weights(data[:length])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20])
def test_a_header_cut_short_is_no_json(length: int) -> None:
    data = encode_weights({"w": np.arange(10.0)})
    with pytest.raises(WeightsError, match=rf"^not a safetensors file: {length} bytes with a header of "):
        data_start(data[:length])


def test_a_header_is_bounded() -> None:
    largest = b"{}" + b" " * (MAX_HEADER_BYTES - 2)
    assert decode_weights(file(largest)) == {}
    with pytest.raises(WeightsError, match=f"with a header of {MAX_HEADER_BYTES + 1}"):
        decode_weights(file(largest + b" "))


def test_arrays_of_any_memory_layout_are_encoded() -> None:
    array = np.arange(12.0).reshape(3, 4)
    for view in (array.T, array[:, ::2], np.asfortranarray(array), array[1]):
        np.testing.assert_array_equal(decode_weights(encode_weights({"w": view}))["w"], view, strict=True)


@pytest.mark.parametrize(
    "data",
    [
        file(b"{"),
        file(b"[]"),
        file(b"\xff\xfe"),
        file(b"[" * 100_000),
        file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}}, bytes(4)),
        file({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        file({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        file({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
        file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
        file({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)),
        (2**63).to_bytes(8, "little") + b"{}",
    ],
    ids=["json", "list", "utf8", "deep", "field", "float8", "negative", "huge", "gap", "surplus", "overlap", "header"],
)
def test_a_malformed_file_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsError):
        decode_weights(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite_are_refused_by_name(value: float) -> None:
    with pytest.raises(WeightsError, match=r"layer\.bias holds values that are not finite"):
        decode_weights(encode_weights({"layer.bias": np.array([0, value], np.float32)}))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_large_tensors_are_finite_or_not_to_the_last_number(dtype: type) -> None:
    many = np.ones(2**19 + 5, dtype)
    decode_weights(encode_weights({"large": many}))
    many[::2] = np.finfo(dtype).max  # their sum is no number any more
    decode_weights(encode_weights({"large": many}))
    decode_weights(encode_weights({"large": np.where(np.arange(len(many)) % 2, many, -many)}))
    for values in ([np.inf], [np.nan], [np.inf, -np.inf]):
        for place in (slice(-len(values), None), slice(len(values))):
            spoilt = np.ones_like(many)
            spoilt[place] = values
            with pytest.raises(WeightsError, match="large holds values that are not finite"):
                decode_weights(encode_weights({"large": spoilt}))


def test_finite_tensors_are_not_checked_again_unless_replaced() -> None:
    found = decode_weights(encode_weights({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}))
    check_finite(found)
    with pytest.raises(WeightsError, match="b holds"):
        check_finite({**found, "b": np.full(2, np.nan, np.float32)})
    found["b"] = np.full(2, np.nan, np.float32)
    with pytest.raises(WeightsError, match="b holds"):
        check_finite(found)


def test_decoded_weights_are_read_only() -> None:
    found = decode_weights(encode_weights({"a": np.zeros(2, np.float32)}))
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0] = np.nan
    with pytest.raises(ValueError, match="WRITEABLE"):
        found["a"].flags.writeable = True


def test_unsupported_dtypes_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"w: expected .*, found complex64"):
        encode_weights({"w": np.zeros(2, np.complex64)})


def test_layouts_are_compared_by_name_shape_and_dtype() -> None:
    mine = {"a": np.zeros(2), "b": np.zeros(3)}
    check_layout(mine, {"b": np.ones(3), "a": np.ones(2)})
    with pytest.raises(WeightsError, match=r"missing \['b'\], unexpected \['c'\]"):
        check_layout(mine, {"a": np.zeros(2), "c": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"b: expected float64 \(3,\), found float32 \(3,\)"):
        check_layout(mine, {"a": np.zeros(2), "b": np.zeros(3, np.float32)})


def test_weights_that_replace_others_have_their_layout_and_are_finite() -> None:
    mine = {"a": np.zeros(2), "b": np.zeros(3, np.int64)}
    check_weights(mine, {"a": np.ones(2), "b": np.ones(3, np.int64)})
    with pytest.raises(WeightsError, match="another network: a: expected float64"):
        check_weights(mine, {**mine, "a": np.zeros(3)})
    with pytest.raises(WeightsError, match="a holds values that are not finite"):
        check_weights(mine, {**mine, "a": np.array([0.0, np.nan])})


def test_tensors_are_decoded_finite_or_not() -> None:
    arrays = {"a": np.array([1.0, np.inf]), "b": np.array([[np.nan]], np.float32)}
    found = decode_tensors(encode_weights(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    with pytest.raises(WeightsError):
        decode_tensors(b"")


def _empty(*shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (file({"w": _empty(0, 2**63)}), "at most"),
        (file({"w": _empty(0, 2**64)}), "at most"),
        (file({"w": _empty(0, 2**33, 2**33)}), "a tensor of at most"),
        (file({"w": _empty(*[0] * 33)}), "at most 32 dimensions"),
        (file({"w": _empty(*[10**18] * 100_000)}), "at most 32 dimensions"),
        (file({"w": {**_empty(0), "data_offsets": [2**63, 2**63]}}), "data_offsets|not a safetensors header"),
        (file({"w": {**_empty(0), "data_offsets": [-1, -1]}}), "not a safetensors header"),
        (
            file(b'{"w": %s, "w": %s}' % ((b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}',) * 2)),
            "every key .* once",
        ),
        (file(b'{"w":{"dtype":"F64","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), "every key .* once"),
        (file({f"w{i}": _empty(0) for i in range(10_001)}), "at most 10,000 tensors"),
        (file({f"w{i}": _empty(0) for i in range(200_000)}), "with a header of"),
    ],
    ids=[
        "size 2**63",
        "size 2**64",
        "product beside 0",
        "dimensions",
        "digits",
        "offset 2**63",
        "offset -1",
        "name twice",
        "field twice",
        "10,001 tensors",
        "200,000 tensors",
    ],
)
def test_an_impossible_header_is_refused_in_one_sentence(data: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        decode_tensors(data)
    assert len(str(caught.value)) < 300


def test_a_header_with_spaces_and_another_order_is_read() -> None:
    data = file(
        b'{ "b" : {"shape":[1],"data_offsets":[4,8],"dtype":"F32"}, "a":%s}  '
        % (b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'),
        bytes(8),
    )
    assert sorted(decode_tensors(data)) == ["a", "b"]


def test_more_tensors_than_a_reader_accepts_are_not_written() -> None:
    with pytest.raises(WeightsError, match="at most 10,000 tensors, found 10,001"):
        encode_weights({f"w{i}": np.zeros(0, np.float32) for i in range(10_001)})
