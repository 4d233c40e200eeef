"""A rollout: T steps of B environments, acted by exactly one policy version; and how it crosses a process boundary.

All arrays are time-major. ``terminated`` and ``truncated`` never share a flag: a truncated step still bootstraps, from the
true final observation. Where that observation stands depends on how the environments reset themselves:

* next-step autoreset: ``observation[t + 1]`` is the final observation, and step ``t + 1`` is the reset step, whose action the
  environment ignored: ``valid[t + 1]`` is False. Its successor begins the new episode.
* same-step autoreset: ``observation[t + 1]`` already begins the next episode, and the final observation is a row of
  ``final_observation``, found through ``final_index``.
* disabled autoreset (the worker resets the rows itself): recorded as same-step.

``begins_episode[t]`` is True where the recurrent state is zero before ``observation[t]`` is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import RolloutInvalid
from shared.policy_signature import PolicySignature


class EpisodeEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finished episode: its undiscounted return, its length in steps, the version that began it."""

    episode_return: float
    length: int
    version: int


class RolloutHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who acted, with what, and when. ``sequence`` counts this sender's rollouts from 0; ``digest`` is the manifest's.

    The noise of step ``t`` is that of the counter ``noise_offset + t`` under ``noise_seed`` (see ``shared.noise``).
    """

    run_id: str
    actor_id: str
    sequence: int
    version: int
    digest: str
    noise_seed: int
    noise_offset: int
    began_unix_s: float
    episodes: tuple[EpisodeEnd, ...] = ()


@dataclass(slots=True)
class Rollout:
    """Shapes: T steps, B environments, K finals. Observation and state are tuples with one array for each leaf.

    observation         leaf dtype  [T + 1, B, *leaf]   the last is the bootstrap observation
    state               float32     [B, *state]         recurrent state before ``observation[0]``
    action              sample      [T, B, *action]     the raw sample
    action_mask         bool        [T, B, *mask]       None where the environment has no masks
    reward              float32     [T, B]
    terminated          bool        [T, B]
    truncated           bool        [T, B]
    valid               bool        [T, B]              False on an autoreset step: nothing is learned from it
    begins_episode      bool        [T + 1, B]
    behaviour_log_prob  float32     [T, B]
    final_observation   leaf dtype  [K, *leaf]
    final_index         int32       [K, 2]              (t, b) of each final observation
    """

    header: RolloutHeader
    observation: tuple[np.ndarray, ...]
    state: tuple[np.ndarray, ...]
    action: np.ndarray
    action_mask: np.ndarray | None
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    begins_episode: npt.NDArray[np.bool_]
    behaviour_log_prob: npt.NDArray[np.float32]
    final_observation: tuple[np.ndarray, ...]
    final_index: npt.NDArray[np.int32]

    @property
    def length(self) -> int:
        """T, in steps."""
        return int(self.reward.shape[0])

    @property
    def batch_size(self) -> int:
        """B, in environments."""
        return int(self.reward.shape[1])

    @property
    def env_steps(self) -> int:
        """Steps that environments really took: autoreset steps are none."""
        return int(np.count_nonzero(self.valid))


@dataclass(frozen=True)
class RolloutLayout:
    """What every rollout of one run must look like: what the actor allocates and the learner checks."""

    signature: PolicySignature
    length: int

    def allocate(self, batch_size: int, header: RolloutHeader) -> Rollout:
        """A rollout of zeros to be written in place, with no finals and every step valid."""
        t, b, signature = self.length, batch_size, self.signature
        mask = next((spec for spec in signature.inputs if spec.role == "action_mask"), None)
        return Rollout(
            header=header,
            observation=tuple(np.zeros((t + 1, b, *leaf.shape), leaf.dtype) for leaf in signature.observation),
            state=tuple(np.zeros((b, *spec.shape), spec.dtype) for spec in signature.state),
            action=np.zeros((t, b, *signature.action.shape), signature.action.sample_dtype),
            action_mask=None if mask is None else np.zeros((t, b, *mask.shape), np.bool_),
            reward=np.zeros((t, b), np.float32),
            terminated=np.zeros((t, b), np.bool_),
            truncated=np.zeros((t, b), np.bool_),
            valid=np.ones((t, b), np.bool_),
            begins_episode=np.zeros((t + 1, b), np.bool_),
            behaviour_log_prob=np.zeros((t, b), np.float32),
            final_observation=tuple(np.zeros((0, *leaf.shape), leaf.dtype) for leaf in signature.observation),
            final_index=np.zeros((0, 2), np.int32),
        )

    def check(self, rollout: Rollout) -> None:
        """Raise RolloutInvalid unless every array has the shape and dtype that it must, and every float is finite."""
        if rollout.reward.ndim != 2 or rollout.length != self.length or rollout.batch_size < 1:
            raise RolloutInvalid(
                f"expected a reward of shape ({self.length}, B) with B >= 1, found {rollout.reward.shape}"
            )
        wanted = self.allocate(rollout.batch_size, rollout.header)
        for (name, expected), (_, found) in zip(_arrays(wanted), _arrays(rollout), strict=True):
            final = name.startswith("final_")
            fits = found.shape[1:] == expected.shape[1:] if final else found.shape == expected.shape
            if not fits or found.dtype != expected.dtype:
                raise RolloutInvalid(
                    f"{name}: expected {expected.dtype} {expected.shape}, found {found.dtype} {found.shape}"
                )
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                raise RolloutInvalid(f"{name} holds values that are not finite")
        self._check_finals(rollout)

    def _check_finals(self, rollout: Rollout) -> None:
        index = rollout.final_index
        if any(leaf.shape[0] != index.shape[0] for leaf in rollout.final_observation):
            raise RolloutInvalid(f"expected {index.shape[0]} final observations in every leaf")
        if index.size and (index.min() < 0 or (index >= (rollout.length, rollout.batch_size)).any()):
            raise RolloutInvalid("final_index points outside the rollout")


def _arrays(rollout: Rollout) -> list[tuple[str, np.ndarray]]:
    """Every array with its name, in the order in which they travel."""
    arrays = [(f"observation[{i}]", leaf) for i, leaf in enumerate(rollout.observation)]
    arrays += [(f"state[{i}]", leaf) for i, leaf in enumerate(rollout.state)]
    arrays.append(("action", rollout.action))
    if rollout.action_mask is not None:
        arrays.append(("action_mask", rollout.action_mask))
    for name in ("reward", "terminated", "truncated", "valid", "begins_episode", "behaviour_log_prob"):
        arrays.append((name, getattr(rollout, name)))
    arrays += [(f"final_observation[{i}]", leaf) for i, leaf in enumerate(rollout.final_observation)]
    arrays.append(("final_index", rollout.final_index))
    return arrays


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    header: RolloutHeader
    batch_size: int
    finals: int


def encode_rollout(rollout: Rollout) -> list[Any]:
    """Frames: a MessagePack header, then every array's buffer, uncopied where it is contiguous."""
    head = msgspec.msgpack.encode(_Wire(rollout.header, rollout.batch_size, len(rollout.final_index)))
    return [head, *(np.ascontiguousarray(array).data for _, array in _arrays(rollout))]


def decode_header(frame: Any) -> RolloutHeader:
    """Only the header, so that what is wrong with the rest can be laid to its sender. Raises RolloutInvalid."""
    return _decode_wire(frame).header


def decode_rollout(frames: Sequence[Any], layout: RolloutLayout) -> Rollout:
    """Read-only views into ``frames`` (bytes or buffers), checked against ``layout``. Raises RolloutInvalid."""
    if not frames:
        raise RolloutInvalid("an empty message is no rollout")
    wire = _decode_wire(frames[0])
    buffers = [memoryview(frame) for frame in frames[1:]]
    t, b = layout.length, wire.batch_size
    if b < 1 or wire.finals < 0 or t * b * 4 > sum(buffer.nbytes for buffer in buffers):
        raise RolloutInvalid(f"the header promises {t} steps of {b} environments, more than the message holds")
    template = layout.allocate(1, wire.header)
    expected = _arrays(template)
    if len(buffers) != len(expected):
        raise RolloutInvalid(f"expected {len(expected)} arrays, found {len(buffers)}")
    arrays = iter(
        _view(buffer, name, array, _shape(name, array, b, wire.finals))
        for buffer, (name, array) in zip(buffers, expected, strict=True)
    )
    rollout = Rollout(
        header=wire.header,
        observation=tuple(next(arrays) for _ in template.observation),
        state=tuple(next(arrays) for _ in template.state),
        action=next(arrays),
        action_mask=None if template.action_mask is None else next(arrays),
        reward=next(arrays),
        terminated=next(arrays),
        truncated=next(arrays),
        valid=next(arrays),
        begins_episode=next(arrays),
        behaviour_log_prob=next(arrays),
        final_observation=tuple(next(arrays) for _ in template.final_observation),
        final_index=next(arrays),
    )
    layout.check(rollout)
    return rollout


def _decode_wire(frame: Any) -> _Wire:
    try:
        return msgspec.msgpack.decode(frame, type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutInvalid(f"not a rollout's header: {error}") from error


def _shape(name: str, template: np.ndarray, batch_size: int, finals: int) -> tuple[int, ...]:
    if name.startswith("final_"):
        return (finals, *template.shape[1:])
    if name.startswith("state"):
        return (batch_size, *template.shape[1:])
    return (template.shape[0], batch_size, *template.shape[2:])


def _view(buffer: memoryview, name: str, template: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * template.dtype.itemsize
    if buffer.nbytes != size:
        raise RolloutInvalid(f"{name}: expected {size} bytes for {template.dtype} {shape}, found {buffer.nbytes}")
    return np.frombuffer(buffer, template.dtype).reshape(shape)
