"""Weights files, and probes for a fixed signature."""

import contextlib
from random import Random

import numpy as np

from scripts.fuzz.json_mutation import mutate_json
from shared.errors import PolicyError, WeightsError
from shared.policy.probe import decode_probe
from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.policy.weights import check_layout, decode_tensors, decode_weights, tensor_places

_SIGNATURE = acting_signature(
    (ObservationLeaf((), "box", "float32", (4,)),), ActionSpec("discrete", "int64", (), (2,), (0,))
)
_LENGTH_BYTES = 8


def run(data: bytes) -> None:
    """Decode ``data`` as every reader does."""
    with contextlib.suppress(PolicyError):
        decode_probe(data, _SIGNATURE)
    arrays = decode_tensors(data)
    places = tensor_places(data)
    assert sum(array.nbytes for array in arrays.values()) <= len(data)
    for name, place in places.items():
        assert arrays[name].tobytes() == data[place.offset : place.offset + place.length]
    check_layout(arrays, arrays)
    with contextlib.suppress(WeightsError):
        assert all(np.isfinite(array).all() for array in decode_weights(data).values() if array.dtype.kind == "f")


def mutate(data: bytes, random: Random) -> bytes:
    """Change one value of the header, whose length is stated anew."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = mutate_json(data[_LENGTH_BYTES : _LENGTH_BYTES + length], random)
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header + data[_LENGTH_BYTES + length :]
