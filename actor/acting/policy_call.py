"""The call of programs of one signature at one batch size: everything that is the same at each step."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from actor.acting.action_check import action_check
from shared.errors import SignatureMismatch
from shared.policy.signature import PolicySignature
from shared.policy.spaces import flatten_observation


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A policy's decision for a batch; each array is batch first.

    ``action`` is the raw sample, which is recorded. ``env_action`` goes to the environment; it is the same array if the
    two are equal. ``log_prob`` and ``value`` [B] are None if the policy or the agent does not compute them.
    """

    action: np.ndarray
    env_action: np.ndarray
    log_prob: np.ndarray | None
    value: np.ndarray | None


class PolicyCall:
    """Assembles inputs and splits outputs at one batch size; ``fault`` checks the outputs (see ``action_check``)."""

    def __init__(self, signature: PolicySignature, batch_size: int) -> None:
        self.signature = signature
        self.batch_size = batch_size
        self.fault = action_check(signature, batch_size)
        self.takes_noise = signature.input_position("noise") is not None
        self.takes_mask = signature.input_position("action_mask") is not None
        mask_shape = signature.action.mask_shape
        self._mask_shape = (batch_size, *(mask_shape or ()))
        self.every_action = np.ones(self._mask_shape, np.bool_)
        self._specs = tuple(
            (leaf.path, (batch_size, *leaf.shape), np.dtype(leaf.dtype)) for leaf in signature.observation
        )
        self._is_plain = len(self._specs) == 1 and self.takes_noise and not self.takes_mask and not signature.state
        self._plain_dtype = self._specs[0][2] if len(self._specs) == 1 and not self._specs[0][0] else None
        self._action_at = signature.output_position("action") or 0
        self._env_action_at = signature.output_position("env_action")
        self._log_prob_at = signature.output_position("log_prob")
        self._value_at = signature.output_position("value")
        self._state_at = len(signature.outputs) - len(signature.state)
        self._has_state = bool(signature.state)
        action = signature.action
        self._cast = np.dtype(action.dtype) if action.dtype != action.sample_dtype else None

    def first_state(self) -> list[np.ndarray]:
        """Return the recurrent state [B, …] before an episode's first step: zeros."""
        return [np.zeros((self.batch_size, *spec.shape), spec.dtype) for spec in self.signature.state]

    def flatten(self, observation: Any) -> list[np.ndarray]:
        """Return the leaves of a nested observation in the program's dtypes. Raise SignatureMismatch without one."""
        if self._plain_dtype is not None:
            return [np.asarray(observation, self._plain_dtype)]
        return flatten_observation(observation, self.signature.observation)

    def inputs(
        self,
        observation: Sequence[np.ndarray],
        state: Sequence[np.ndarray],
        action_mask: np.ndarray | None,
        noise: np.ndarray | None,
    ) -> list[np.ndarray]:
        """Return the program's inputs in order. Raise SignatureMismatch for another shape or dtype of an array."""
        if len(observation) != len(self._specs):
            raise SignatureMismatch(f"expected {len(self._specs)} arrays as an observation, found {len(observation)}")
        if self._is_plain and noise is not None:  # a fast path for nearly all policies: half the time
            (array,), (_, shape, dtype) = observation, self._specs[0]
            if array.shape == shape and array.dtype == dtype and array.flags.c_contiguous:
                return [array, noise]
        inputs = []
        for array, (path, shape, dtype) in zip(observation, self._specs, strict=True):
            if array.shape != shape or array.dtype != dtype:
                name = ".".join(("observation", *map(str, path)))
                raise SignatureMismatch(f"{name}: expected {dtype} {shape}, found {array.dtype} {array.shape}")
            inputs.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        inputs += state
        if self.takes_mask:
            inputs.append(self.every_action if action_mask is None else self._checked_mask(action_mask))
        if noise is not None:
            inputs.append(noise)
        return inputs

    def _checked_mask(self, mask: np.ndarray) -> np.ndarray:
        if mask.shape != self._mask_shape or mask.dtype != np.bool_:
            raise SignatureMismatch(f"action_mask: expected bool {self._mask_shape}, found {mask.dtype} {mask.shape}")
        return np.ascontiguousarray(mask)

    def read(self, outputs: Sequence[np.ndarray]) -> tuple[Decision, Sequence[np.ndarray]]:
        """Return the decision and the next recurrent state."""
        action = outputs[self._action_at]
        if self._env_action_at is not None:
            env_action = outputs[self._env_action_at]
        else:
            env_action = action if self._cast is None else action.astype(self._cast)
        log_prob = None if self._log_prob_at is None else outputs[self._log_prob_at]
        value = None if self._value_at is None else outputs[self._value_at]
        return Decision(action, env_action, log_prob, value), outputs[self._state_at :] if self._has_state else ()

    def input_fault(self, inputs: Sequence[np.ndarray]) -> str | None:
        """Return a description of inputs that no policy can act on, which is the environment's fault, or None."""
        for leaf, array in zip(self.signature.observation, inputs, strict=False):
            if leaf.cardinalities:
                number = array - np.array(leaf.start).reshape(leaf.shape)
                if not ((number >= 0) & (number < np.array(leaf.cardinalities).reshape(leaf.shape))).all():
                    name = ".".join(("observation", *map(str, leaf.path)))
                    return f"{name} holds numbers outside of its space"
        for spec, array in zip(self.signature.inputs, inputs, strict=True):
            if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
                return f"{spec.name} holds values that are not finite, such as {array[~finite][0]}"
            if spec.role == "action_mask" and not self._leaves_a_choice(array):
                return "action_mask allows no action at all"
        return None

    def _leaves_a_choice(self, mask: np.ndarray) -> bool:
        ends = np.cumsum(self.signature.action.cardinalities)
        return all(choice.any(axis=1).all() for choice in np.split(mask, ends[:-1], axis=1))
