"""Files of ExecuTorch programs, and the data maps that versions' weights are copied into."""

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from shared.engines.executorch_program import (
    DataLayout,
    ExecutorchProgram,
    WeightPlace,
    data_map,
    decode_program,
    encode_program,
    weight_views,
)
from shared.errors import ProgramError

WEIGHTS = {
    "bias": np.arange(3, dtype=np.float32),
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "scale": np.array(2.5, np.float32),
}
LAYOUT = DataLayout(
    head=b"head",
    size=256,
    places=(
        WeightPlace("bias", (0,), 128),
        WeightPlace("kernel", (0, 2, 3, 1), 16),
        WeightPlace("scale", (), 252),
    ),
    rows=8,
    splits=True,
)


def test_a_file_is_read_as_it_was_written() -> None:
    program = ExecutorchProgram(b"program", LAYOUT)
    data = encode_program(program)
    assert data.startswith(b"program"), "other runtimes read the file from its start"
    assert decode_program(data) == program


def test_weights_are_copied_to_their_places_in_their_order() -> None:
    data = data_map(LAYOUT, WEIGHTS)
    assert len(data) == LAYOUT.size
    assert data.startswith(LAYOUT.head)
    assert data[16 : 16 + 96] == WEIGHTS["kernel"].transpose(0, 2, 3, 1).tobytes()
    for place, view in zip(LAYOUT.places, weight_views(LAYOUT, data, WEIGHTS), strict=True):
        np.testing.assert_array_equal(view, WEIGHTS[place.weight])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"program",
        encode_program(ExecutorchProgram(b"program", LAYOUT))[:-1],
        encode_program(ExecutorchProgram(b"program", LAYOUT))[-12:],
        b"program" + (2**63).to_bytes(8, "little") + b"RLHSPTE1",
        b"program" + (7).to_bytes(8, "little") + b"RLHSPTE1",
        encode_program(ExecutorchProgram(b"", msgspec.structs.replace(LAYOUT, size=3))),
        encode_program(ExecutorchProgram(b"", msgspec.structs.replace(LAYOUT, size=2**60))),
    ],
    ids=["empty", "no layout", "cut at the end", "cut at the start", "long", "no msgpack", "too small", "too large"],
)
def test_a_file_without_a_layout_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramError):
        decode_program(data)


@dataclass(frozen=True)
class Wrong:
    place: WeightPlace
    message: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(WeightPlace("bias", (0,), 248), "outside"),
        Wrong(WeightPlace("bias", (0,), 0), "outside"),
        Wrong(WeightPlace("bias", (0,), -4), "outside"),
        Wrong(WeightPlace("bias", (0, 1), 128), "no weight"),
        Wrong(WeightPlace("kernel", (0, 1, 2, 2), 16), "no weight"),
        Wrong(WeightPlace("other", (0,), 128), "no weight"),
    ],
    ids=["beyond the end", "in the head", "negative", "other rank", "no permutation", "unknown"],
)
def test_a_place_that_no_weight_fits_is_refused(wrong: Wrong) -> None:
    with pytest.raises(ProgramError, match=wrong.message):
        data_map(msgspec.structs.replace(LAYOUT, places=(wrong.place,)), WEIGHTS)
