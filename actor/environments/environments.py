"""A batch of environments for the rollout worker: flat observation leaves, action masks, and final observations.

In every autoreset mode ``step`` returns the observation to act on next, and separately the final observations.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from shared.errors import ConfigurationError, EnvironmentFailed, HotswapError, one_line
from shared.policy.signature import PolicySignature
from shared.policy.spaces import action_spec, flatten_observation, observation_leaves

BoolArray = npt.NDArray[np.bool_]
Leaves = Sequence[np.ndarray]
_MESSAGE_CHARACTERS = 150


class Finals(NamedTuple):
    """The last observations of K episodes: their environments ``rows`` [K] and leaves [K, *leaf]."""

    rows: npt.NDArray[np.intp]
    observation: Leaves


class Environments(AbstractContextManager["Environments"]):
    """B environments that are stepped together. The next step may overwrite the arrays that a step returned.

    ``leaves`` and ``action`` are the spaces of one environment as plain data. The mask is bool [B, *mask] for the last
    observation, or None.
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any], env_id: str) -> None:
        self.env_id = env_id
        self.vector = vector
        self.num_envs: int = vector.num_envs
        self.leaves = observation_leaves(vector.single_observation_space)
        self.action = action_spec(vector.single_action_space)
        self.autoreset_mode: AutoresetMode = vector.metadata["autoreset_mode"]
        self.action_mask: BoolArray | None = None
        self._was_reset = False
        leaves = self.leaves
        is_array = len(leaves) == 1 and leaves[0].path == ()  # needs neither a walk nor a copy
        self._flatten: Callable[[Any], Leaves] = (
            (lambda array: (array,)) if is_array else (lambda nested: flatten_observation(nested, leaves))
        )

    @property
    def supports_masks(self) -> bool:
        """True when the last reset returned ``info["action_mask"]``."""
        return self.action_mask is not None

    def check_signature(self, signature: PolicySignature) -> None:
        """Raise ConfigurationError unless a policy of ``signature`` can act here. Masks are known after ``reset``."""
        for what, wanted, found in (
            ("observations", signature.observation, self.leaves),
            ("actions", signature.action, self.action),
        ):
            if wanted != found:
                raise ConfigurationError(
                    f"the policy does not fit {self.env_id}: it was made for {what} {_brief(wanted)}, "
                    f"the environment has {_brief(found)}"
                )
        if self._was_reset and self.action_mask is None and signature.input_position("action_mask") is not None:
            raise ConfigurationError(
                f'the policy needs action masks, and {self.env_id} gives no info["action_mask"] when it is reset'
            )

    def reset(self, seed: int | None = None) -> Leaves:
        """Begin an episode in every environment; return the leaves [B, *leaf]. One seed serves the whole batch.

        Raises EnvironmentFailed for an exception of an environment, as ``step`` does.
        """
        observation, info = self._reset_vector(seed=seed)
        self._was_reset = True
        self.action_mask = None
        if "action_mask" in info and self.action.mask_shape is not None:
            self.action_mask = np.ones((self.num_envs, *self.action.mask_shape), np.bool_)
            self._update_mask(info, ended=None)
        return self._flatten(observation)

    def step(self, env_action: np.ndarray) -> tuple[Leaves, np.ndarray, BoolArray, BoolArray, Finals | None]:
        """Return observation leaves [B, *leaf], reward [B], terminated [B], truncated [B] and the finals.

        Finals are None under next-step autoreset: the observation is the final one, and the next step only resets.
        """
        try:
            observation, reward, terminated, truncated, info = self.vector.step(env_action)
        except HotswapError:
            raise
        except Exception as error:
            raise EnvironmentFailed(f"{self.env_id} raised {describe_error(error)}") from error
        finals = ended = None
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            ended = terminated | truncated
            if ended.any():
                observation, info, finals = self._begin_again(observation, info, ended)
        if self.action_mask is not None:
            self._update_mask(info, ended=terminated | truncated if ended is None else None)
        return self._flatten(observation), reward, terminated, truncated, finals

    def _begin_again(
        self, observation: Any, info: dict[str, Any], ended: BoolArray
    ) -> tuple[Any, dict[str, Any], Finals]:
        rows = np.flatnonzero(ended)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return observation, info, Finals(rows, self._final_leaves(info, rows))
        finals = Finals(rows, tuple(leaf[rows] for leaf in self._flatten(observation)))
        observation, began = self._reset_vector(options={"reset_mask": ended})
        return observation, self._with_new_masks(info, began, ended), finals

    def _reset_vector(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        try:
            return self.vector.reset(**arguments)
        except HotswapError:
            raise
        except Exception as error:
            raise EnvironmentFailed(f"{self.env_id} raised {describe_error(error)}, in a reset") from error

    def _with_new_masks(self, info: dict[str, Any], began: dict[str, Any], ended: BoolArray) -> dict[str, Any]:
        """Return ``info`` of a step with the masks of the rows that were reset after it."""
        if self.action_mask is None or "action_mask" not in began:
            return info
        if "action_mask" not in info:
            return began
        new = began.get("_action_mask", ended)
        masks = np.where(new[:, None], self._flat_masks(began["action_mask"]), self._flat_masks(info["action_mask"]))
        return {"action_mask": masks, "_action_mask": info.get("_action_mask", True) | new}

    def _final_leaves(self, info: dict[str, Any], rows: npt.NDArray[np.intp]) -> Leaves:
        final = info.get("final_obs")
        if final is None:
            raise ConfigurationError(
                f'{self.env_id} resets itself in the same step without info["final_obs"]; a truncated episode '
                "cannot be learned from without its final observation"
            )
        if isinstance(final, np.ndarray) and final.dtype == object:
            singles = [flatten_observation(final[row], self.leaves) for row in rows]
            return tuple(np.stack(leaf) for leaf in zip(*singles, strict=True))
        return tuple(leaf[rows] for leaf in flatten_observation(final, self.leaves))

    def _update_mask(self, info: dict[str, Any], ended: BoolArray | None) -> None:
        """Set ``action_mask``. All actions are legal in rows without a mask in ``info``, and in rows that ``ended``."""
        assert self.action_mask is not None
        if "action_mask" not in info:
            self.action_mask = np.ones_like(self.action_mask)
            return
        mask = self._flat_masks(info["action_mask"])
        if (present := info.get("_action_mask")) is not None:
            mask = mask | ~present[:, None]
        if ended is not None:
            mask = mask | ended[:, None]
        possible = mask.any(axis=1)
        if not possible.all():
            raise ConfigurationError(
                f"{self.env_id}: the action mask of environment {int(possible.argmin())} allows no action at all"
            )
        self.action_mask = mask

    def _flat_masks(self, masks: Any) -> BoolArray:
        """Return bool [B, *mask] from an array, or from Gymnasium's object array of a MultiDiscrete's tuples."""
        assert self.action_mask is not None
        if isinstance(masks, np.ndarray) and masks.dtype == object:
            width = self.action_mask.shape[1]
            blank = (np.ones(width, np.bool_),)
            masks = [np.concatenate([np.ravel(part) for part in (blank if row is None else row)]) for row in masks]
        flat = np.asarray(masks, np.bool_).reshape(self.num_envs, -1)
        if flat.shape != self.action_mask.shape:
            raise ConfigurationError(
                f"{self.env_id}: expected action masks of {self.action_mask.shape[1]} numbers, found {flat.shape[1]}"
            )
        return flat

    def close(self) -> None:
        self.vector.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_error(error: Exception) -> str:
    """Return ``ValueError: message`` on one line, cut after 150 characters of the message."""
    return f"{type(error).__name__}: {one_line(error, _MESSAGE_CHARACTERS)}"


def _brief(part: Any) -> str:
    parts = part if isinstance(part, tuple) else (part,)
    fields = [{k: v for k, v in msgspec.to_builtins(one).items() if v not in ((), [])} for one in parts]
    return ", ".join(msgspec.json.encode(one).decode() for one in fields)
