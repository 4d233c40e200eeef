"""Comparison of an adapted policy with Stable-Baselines3's own ``predict``."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from shared.errors import ExportError
from shared.policy.probe import make_inputs, run_policy
from shared.policy.signature import PolicySignature

if TYPE_CHECKING:
    from learner.sb3.assembly import SB3Policy

_ROWS = 16
_ATOL = _RTOL = 1e-5


def check_agreement(adapted: "SB3Policy", policy: BasePolicy, vec_normalize: VecNormalize | None) -> None:
    """Raise ExportError unless both choose the same actions for 16 observations, without noise."""
    signature = adapted.signature
    inputs = make_inputs(signature, _ROWS, seed=0)
    for i, spec in enumerate(signature.inputs):
        if spec.role in ("noise", "state"):
            inputs[i] = np.zeros_like(inputs[i])
    # A copy: the layers are shared with the model, whose mode and device must not change.
    found = env_action(signature, run_policy(copy.deepcopy(adapted).cpu().eval(), signature, inputs))
    n = len(signature.observation)
    observation = nested(policy.observation_space, signature, inputs[:n])
    mask_at = signature.input_position("action_mask")
    expected = predict(policy, observation, vec_normalize, None if mask_at is None else inputs[mask_at])
    if expected.shape != found.shape or not np.allclose(expected, found, _RTOL, _ATOL):
        row = int(np.flatnonzero(~np.isclose(expected, found, _RTOL, _ATOL).reshape(_ROWS, -1).all(1))[0])
        raise ExportError(
            "write an nn.Module with forward(inputs) -> outputs (shared.policy.signature) around it, and publish that: "
            f"{type(policy).__name__} computes its actions differently from its base class. "
            f"predict returns {expected[row]}, its layers give {found[row]}"
        )


def predict(
    policy: BasePolicy, observation: Any, vec_normalize: VecNormalize | None, action_mask: np.ndarray | None = None
) -> np.ndarray:
    """Return Stable-Baselines3's deterministic actions for a batch of the environment. The policy's mode stays."""
    if vec_normalize is not None:
        observation = vec_normalize.normalize_obs(observation)
    was_training = policy.training
    if action_mask is None:
        action, _ = policy.predict(observation, deterministic=True)
    else:
        action, _ = policy.predict(observation, deterministic=True, action_masks=action_mask)  # type: ignore[call-arg]
    policy.set_training_mode(was_training)
    return np.asarray(action)


def nested(space: spaces.Space[Any], signature: PolicySignature, leaves: list[np.ndarray]) -> Any:
    """Return flat arrays as an observation of ``space``: a dict, or one array."""
    if not isinstance(space, spaces.Dict):
        return leaves[0]
    return {leaf.path[0]: array for leaf, array in zip(signature.observation, leaves, strict=True)}


def env_action(signature: PolicySignature, outputs: list[np.ndarray]) -> np.ndarray:
    """Return the output for the environment: ``env_action``, or ``action`` if there is none."""
    position = signature.output_position("env_action")
    return outputs[0 if position is None else position]
