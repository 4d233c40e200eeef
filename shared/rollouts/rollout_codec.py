"""How a rollout crosses a process boundary: a header, then raw bytes. Nothing in it can run.

    frame 0    MessagePack: RolloutHeader, B, number of finals
    frame 1    every array below 64 KiB, one after the other, each padded to a multiple of 8 bytes
    frame 2…   every larger array as it is, uncopied

Which arrays there are, and where, follows from the run's layout; so a receiver never reads what a sender only claims.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from shared.errors import ConfigurationError, RolloutInvalid
from shared.rollouts.rollout import ArraySpec, Rollout, RolloutHeader, RolloutLayout

# No frame is longer, and no socket reads one that claims to be: what one connection can fill is bounded.
MAX_FRAME_BYTES = 512 * 2**20

_SMALL_BYTES = 64 * 1024  # below this a copy is cheaper than a frame of its own
_HEADER_BYTES = 4096
_HEADER_FACTOR = 8  # an episode's end takes at most 70 bytes, and a step at least 14
_ALIGNMENT = 8  # the largest dtype's, and what ZeroMQ gives a large message


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    header: RolloutHeader
    batch_size: int
    finals: int


def encode_rollout(rollout: Rollout) -> list[Any]:
    """Frames: bytes, and buffers of the rollout's own large arrays: do not write to those until they are sent.

    Raises ConfigurationError where an array is larger than any receiver takes.
    """
    small: list[Any] = []
    large: list[Any] = []
    for array in rollout.arrays():
        buffer = np.ascontiguousarray(array).data
        if array.nbytes > MAX_FRAME_BYTES:
            raise ConfigurationError(
                f"a rollout's arrays have at most {MAX_FRAME_BYTES} bytes each, found {array.nbytes}; step fewer "
                "environments in one actor, or shorten the rollouts"
            )
        if array.nbytes < _SMALL_BYTES:
            small += (buffer, bytes(_padding(array.nbytes)))
        else:
            large.append(buffer)
    head = msgspec.msgpack.encode(_Wire(rollout.header, rollout.batch_size, len(rollout.final_index)))
    return [head, b"".join(small), *large]


def decode_rollout(frames: Sequence[Any], layout: RolloutLayout) -> Rollout:
    """Views of ``frames`` (bytes or buffers), checked against ``layout``. Raises RolloutInvalid."""
    if len(frames) < 2:
        raise RolloutInvalid(f"a rollout has at least 2 frames, found {len(frames)}")
    # What ended in a rollout is told in its header, at most once a step: a header that dwarfs the steps is a trap.
    header_bytes, *sizes = (memoryview(frame).nbytes for frame in frames)
    if header_bytes > _HEADER_BYTES + _HEADER_FACTOR * sum(sizes):
        raise RolloutInvalid(f"a header of {header_bytes} bytes does not belong to {sum(sizes)} bytes of steps")
    wire = _decode_wire(frames[0])
    steps = layout.length * wire.batch_size
    if wire.batch_size < 1 or not 0 <= wire.finals <= steps:
        raise RolloutInvalid(f"expected B >= 1 and at most T * B finals, found {wire.batch_size} and {wire.finals}")
    specs = layout.arrays(wire.batch_size, wire.finals)
    arrays = _views([_as_bytes(frame) for frame in frames[1:]], specs)
    rollout = layout.assemble(wire.header, arrays)
    layout.check_values(specs, arrays, rollout)
    return rollout


def _decode_wire(frame: Any) -> _Wire:
    try:
        return msgspec.msgpack.decode(frame, type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutInvalid(f"not a rollout's header: {error}") from error


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
    """Aligned bytes: a copy only of what ZeroMQ packed tightly, which it does with small messages."""
    data: np.ndarray = np.frombuffer(frame, np.uint8)
    return data if data.__array_interface__["data"][0] % _ALIGNMENT == 0 else data.copy()


def _padding(size: int) -> int:
    return -size % _ALIGNMENT
