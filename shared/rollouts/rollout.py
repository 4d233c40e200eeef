"""A rollout: T steps of B environments, acted by exactly one policy version.

All arrays are time-major. ``terminated`` and ``truncated`` are separate: a truncated step still bootstraps, from the
true final observation. Its place depends on the autoreset mode of the environments:

* next-step: ``observation[t + 1]`` is the final observation, and step ``t + 1`` is the reset step, whose action the
  environment ignored: ``valid[t + 1]`` is False. The step after it begins the new episode.
* same-step: ``observation[t + 1]`` begins the next episode, and the final observation is a row of
  ``final_observation``, found through ``final_index``.
* disabled (the worker resets the rows): recorded as same-step.

``begins_episode[t]`` is True where the recurrent state is zero before ``observation[t]``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import RolloutInvalid, RolloutOutOfBounds
from shared.policy.signature import PolicySignature
from shared.rollouts.value_checks import check_choices, check_elements, check_within, log_prob_bounds

_SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_REWARD = float(np.finfo(np.float32).max)
_COUNTLESS = 2**53
_SUM_ERROR = 1 + 1e-6  # of a long sum of rewards


class EpisodeEnds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ended episodes in order: undiscounted return, length in steps, and the version that began each.

    Columns of equal length: an object for each of many short episodes would cost more than acting in them.
    """

    returns: list[float] = []
    lengths: list[int] = []
    versions: list[int] = []


class RolloutHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"session_id": "incarnation"}):
    """Origin of a rollout.

    ``sequence`` counts the rollouts of this session of the actor from 0; the sender sets both. ``digest`` is that of
    the manifest. The noise of step ``t`` has the counter ``noise_offset + t`` under ``noise_seed`` (see
    ``shared.policy.noise``).
    """

    run_id: str
    actor_id: str
    sequence: int
    version: int
    digest: str
    noise_seed: int
    noise_offset: int
    began_unix_s: float
    episodes: EpisodeEnds = EpisodeEnds()
    session_id: str = ""


@dataclass(slots=True)
class Rollout:
    """Arrays of T steps, B environments and K final observations. Tuples have one array for each leaf.

    observation         leaf dtype  [T + 1, B, *leaf]   the last is the bootstrap observation
    state               float32     [B, *state]         recurrent state before ``observation[0]``
    action              sample      [T, B, *action]     the raw sample
    action_mask         bool        [T, B, *mask]       None if the environment has no masks
    reward              float32     [T, B]
    terminated          bool        [T, B]
    truncated           bool        [T, B]
    valid               bool        [T, B]              False on autoreset steps, which are not learned from
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
        """Number of environment steps, without autoreset steps."""
        return int(np.count_nonzero(self.valid))

    def arrays(self) -> list[np.ndarray]:
        """Return every array, in the order of ``RolloutLayout.arrays``."""
        mask = () if self.action_mask is None else (self.action_mask,)
        steps = (self.reward, self.terminated, self.truncated, self.valid, self.begins_episode, self.behaviour_log_prob)
        return [*self.observation, *self.state, self.action, *mask, *steps, *self.final_observation, self.final_index]


class RolloutAccounts(msgspec.Struct, forbid_unknown_fields=True):
    """Number of rollouts by outcome. ``sent == learned + stale + invalid + lost`` once none is in flight."""

    sent: int = 0
    learned: int = 0
    stale: int = 0
    invalid: int = 0
    lost: int = 0


class ArraySpec(NamedTuple):
    """Required name, dtype and complete shape of one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, as an unbounded integer: untrusted headers may claim any batch size."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class RolloutLayout:
    """The layout of all rollouts of one run: actors allocate it, the learner checks it, with rewards bounded."""

    signature: PolicySignature
    length: int
    reward_limit: float = LARGEST_REWARD

    def arrays(self, batch_size: int, finals: int) -> list[ArraySpec]:
        """Return the specification of every array, in the order of encoding."""
        t, b, signature = self.length, batch_size, self.signature
        mask = next((spec for spec in signature.inputs if spec.role == "action_mask"), None)
        leaves = list(enumerate(signature.observation))
        return [
            *(ArraySpec(f"observation[{i}]", leaf.dtype, (t + 1, b, *leaf.shape)) for i, leaf in leaves),
            *(ArraySpec(f"state[{i}]", spec.dtype, (b, *spec.shape)) for i, spec in enumerate(signature.state)),
            ArraySpec("action", signature.action.sample_dtype, (t, b, *signature.action.shape)),
            *([] if mask is None else [ArraySpec("action_mask", "bool", (t, b, *mask.shape))]),
            ArraySpec("reward", "float32", (t, b)),
            ArraySpec("terminated", "bool", (t, b)),
            ArraySpec("truncated", "bool", (t, b)),
            ArraySpec("valid", "bool", (t, b)),
            ArraySpec("begins_episode", "bool", (t + 1, b)),
            ArraySpec("behaviour_log_prob", "float32", (t, b)),
            *(ArraySpec(f"final_observation[{i}]", leaf.dtype, (finals, *leaf.shape)) for i, leaf in leaves),
            ArraySpec("final_index", "int32", (finals, 2)),
        ]

    def allocate(self, batch_size: int, header: RolloutHeader) -> Rollout:
        """Return a rollout of zeros without final observations and with every step valid."""
        rollout = self.assemble(header, [np.zeros(spec.shape, spec.dtype) for spec in self.arrays(batch_size, 0)])
        rollout.valid[:] = True
        return rollout

    def assemble(self, header: RolloutHeader, arrays: Sequence[np.ndarray]) -> Rollout:
        """Return a rollout of ``arrays``, unchecked, given in the order of ``self.arrays``."""
        following = iter(arrays)
        leaves = len(self.signature.observation)
        masked = self.signature.input_position("action_mask") is not None
        return Rollout(
            header=header,
            observation=tuple(islice(following, leaves)),
            state=tuple(islice(following, len(self.signature.state))),
            action=next(following),
            action_mask=next(following) if masked else None,
            reward=next(following),
            terminated=next(following),
            truncated=next(following),
            valid=next(following),
            begins_episode=next(following),
            behaviour_log_prob=next(following),
            final_observation=tuple(islice(following, leaves)),
            final_index=next(following),
        )

    def check(self, rollout: Rollout) -> None:
        """Raise RolloutInvalid unless the rollout is safe to learn from.

        Shapes and dtypes are right, floats are finite, flags are 0 or 1, actions and discrete observations are in range
        (an index out of range would end the training), rewards and log-probabilities are within their bounds, final
        indices are in range, and the header is plausible. Values that the environment or the policy cannot have given
        raise RolloutOutOfBounds.
        """
        if rollout.reward.ndim != 2 or rollout.length != self.length or rollout.batch_size < 1:
            raise RolloutInvalid(
                f"expected a reward of shape ({self.length}, B) with B >= 1, found {rollout.reward.shape}"
            )
        found = rollout.arrays()
        expected = self.arrays(rollout.batch_size, len(rollout.final_index))
        if len(found) != len(expected):
            raise RolloutInvalid(f"expected {len(expected)} arrays, found {len(found)}")
        for spec, array in zip(expected, found, strict=True):
            if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
                raise RolloutInvalid(
                    f"{spec.name}: expected {spec.dtype} {spec.shape}, found {array.dtype} {array.shape}"
                )
        self.check_values(expected, found, rollout)

    def check_values(self, specs: Sequence[ArraySpec], arrays: Sequence[np.ndarray], rollout: Rollout) -> None:
        """Check everything except shapes and dtypes. Raises RolloutInvalid."""
        for spec, array in zip(specs, arrays, strict=True):
            check_elements(spec.name, array)
        check_within("reward", rollout.reward, -self.reward_limit, self.reward_limit, " (--reward-limit)")
        check_within("behaviour_log_prob", rollout.behaviour_log_prob, *log_prob_bounds(self.signature.action))
        self._check_choices(rollout)
        index = rollout.final_index
        if index.size and (index.min() < 0 or (index >= (rollout.length, rollout.batch_size)).any()):
            raise RolloutInvalid("final_index points outside the rollout")
        header = rollout.header
        if header.sequence < 0 or header.version < 0 or not _SHA256.fullmatch(header.digest):
            raise RolloutInvalid(
                "expected numbers from 0 and a SHA-256, found "
                f"sequence {header.sequence}, version {header.version}, digest {header.digest[:80]!r}"
            )
        if not math.isfinite(header.began_unix_s):
            raise RolloutInvalid(f"expected a finite time, found {header.began_unix_s}")
        _check_episodes(header.episodes, self.reward_limit)

    def _check_choices(self, rollout: Rollout) -> None:
        action = self.signature.action
        if action.kind == "multi_binary":
            check_choices("action", rollout.action, 0, 2, RolloutInvalid)
        elif action.cardinalities:
            end = np.array(action.cardinalities).reshape(action.shape)
            check_choices("action", rollout.action, 0, end, RolloutInvalid)
        for i, leaf in enumerate(self.signature.observation):
            if leaf.cardinalities:
                start = np.array(leaf.start).reshape(leaf.shape)
                end = start + np.array(leaf.cardinalities).reshape(leaf.shape)
                check_choices(f"observation[{i}]", rollout.observation[i], start, end)
                check_choices(f"final_observation[{i}]", rollout.final_observation[i], start, end)


def _check_episodes(ends: EpisodeEnds, reward_limit: float) -> None:
    if not len(ends.returns) == len(ends.lengths) == len(ends.versions):
        counts = f"{len(ends.returns)} returns, {len(ends.lengths)} lengths and {len(ends.versions)} versions"
        raise RolloutInvalid(f"expected as many returns of episodes as lengths and versions, found {counts}")
    for episode in zip(ends.returns, ends.lengths, ends.versions, strict=True):
        episode_return, length, version = episode
        if not abs(episode_return) <= reward_limit * max(length, 0) * _SUM_ERROR:  # also true for NaN
            raise RolloutOutOfBounds(f"no episode can have ended with this return, length and version: {episode}")
        if not 0 < length < _COUNTLESS or version < 0:
            raise RolloutInvalid(f"no episode can have ended with this return, length and version: {episode}")
