"""Encoding of rollouts as a header and raw bytes, without anything executable.

    frame 0    MessagePack: RolloutHeader, B, number of final observations
    frame 1    every array below 64 KiB, each padded to a multiple of 8 bytes
    frame 2…   every larger array, uncopied

The layout of the run determines the arrays and their places, so a receiver does not rely on claims of a sender.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from shared.errors import ConfigurationError, RolloutInvalid
from shared.rollouts.rollout import ArraySpec, Rollout, RolloutHeader, RolloutLayout

# Of all frames together; it bounds the memory that one connection can fill.
MAX_ROLLOUT_BYTES = 512 * 2**20

_SMALL_BYTES = 64 * 1024  # below this a copy is cheaper than a frame of its own
_HEADER_BYTES = 4096
_HEADER_FACTOR = 8  # the end of an episode takes at most 70 bytes, a step at least 14
_ALIGNMENT = 8  # of the largest dtype, and of large ZeroMQ messages


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    header: RolloutHeader
    batch_size: int
    finals: int


def encode_rollout(rollout: Rollout) -> list[Any]:
    """Return the frames: bytes, and buffers to leave unchanged until sent. Raises ConfigurationError if too large."""
    small: list[Any] = []
    large: list[Any] = []
    if (size := sum(array.nbytes for array in rollout.arrays())) > MAX_ROLLOUT_BYTES:
        raise ConfigurationError(
            "use fewer environments in one actor, or shorter rollouts: a rollout has at most "
            f"{MAX_ROLLOUT_BYTES} bytes, found {size}"
        )
    for array in rollout.arrays():
        buffer = np.ascontiguousarray(array).data
        if array.nbytes < _SMALL_BYTES:
            small += (buffer, bytes(_padding(array.nbytes)))
        else:
            large.append(buffer)
    head = msgspec.msgpack.encode(_Wire(rollout.header, rollout.batch_size, len(rollout.final_index)))
    return [head, b"".join(small), *large]


def decode_rollout(frames: Sequence[Any], layout: RolloutLayout) -> Rollout:
    """Return a rollout of views of ``frames`` (bytes or buffers). Raises RolloutInvalid unless it fits ``layout``."""
    if len(frames) < 2:
        raise RolloutInvalid(f"a rollout has at least 2 frames, found {len(frames)}")
    # A header lists at most one ended episode per step: decoding one that dwarfs the steps would waste memory.
    header_bytes, *sizes = (memoryview(frame).nbytes for frame in frames)
    if header_bytes > _HEADER_BYTES + _HEADER_FACTOR * sum(sizes):
        raise RolloutInvalid(f"a header of {header_bytes} bytes does not belong to {sum(sizes)} bytes of steps")
    try:
        wire = msgspec.msgpack.decode(frames[0], type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutInvalid(f"not a rollout's header: {error}") from error
    steps = layout.length * wire.batch_size
    if wire.batch_size < 1 or not 0 <= wire.finals <= steps:
        raise RolloutInvalid(f"expected B >= 1 and at most T * B finals, found {wire.batch_size} and {wire.finals}")
    specs = layout.arrays(wire.batch_size, wire.finals)
    arrays = _views([_as_bytes(frame) for frame in frames[1:]], specs)
    rollout = layout.assemble(wire.header, arrays)
    layout.check_values(specs, arrays, rollout)
    return rollout


def _views(buffers: list[np.ndarray], specs: Sequence[ArraySpec]) -> list[np.ndarray]:
    packed, *large = buffers
    sizes = [spec.nbytes for spec in specs]
    expected = [sum(size + _padding(size) for size in sizes if size < _SMALL_BYTES)]
    expected += [size for size in sizes if size >= _SMALL_BYTES]
    found = [buffer.nbytes for buffer in buffers]
    if found != expected:
        raise RolloutInvalid(f"expected arrays in frames of {expected} bytes, found {found}")
    views = []
    offset = 0
    for spec, size in zip(specs, sizes, strict=True):
        if size < _SMALL_BYTES:
            data = packed[offset : offset + size]
            offset += size + _padding(size)
        else:
            data = large.pop(0)
        views.append(data.view(spec.dtype).reshape(spec.shape))
    return views


def _as_bytes(frame: Any) -> np.ndarray:
    """Return ``frame`` as aligned bytes; only small ZeroMQ messages are unaligned and copied."""
    data: np.ndarray = np.frombuffer(frame, np.uint8)
    return data if data.__array_interface__["data"][0] % _ALIGNMENT == 0 else data.copy()


def _padding(size: int) -> int:
    return -size % _ALIGNMENT
