"""A Stable-Baselines3 model as a policy that can be published, compared with the model's own ``predict``."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize, VecTransposeImage, unwrap_vec_normalize
from torch import nn

from learner.sb3.action_heads import GreedyHead
from learner.sb3.assembly import Parts, SB3Policy, assemble
from learner.sb3.observation_input import ObservationInput, pair_leaves
from shared.errors import ConfigurationError, ExportError
from shared.policy.probe import make_inputs, run_policy
from shared.policy.signature import PolicySignature
from shared.policy.spaces import action_spec

Model = BaseAlgorithm | BasePolicy


def from_sb3(
    model: Model, *, observation_space: spaces.Space[Any] | None = None, vec_normalize: VecNormalize | None = None
) -> SB3Policy:
    """Return ``model`` as a module under the policy contract, with its ``signature``.

    Supports PPO, A2C, DQN, SAC, TD3, DDPG, MaskablePPO and RecurrentPPO, with any features extractor. The layers are
    shared with the model; ``refresh`` updates all else.

    Args:
        model: The model, or its ``policy``.
        observation_space: The observation space of the environment, before wrappers of Stable-Baselines3. By default,
            that of the model's environment, or else the space that the model reads (images channels first).
        vec_normalize: The normalisation of observations. By default, that of the model's environment, if any.

    Raises:
        ConfigurationError: The policy class, observation space or action space is not supported.
        ExportError: The module's actions differ from those of ``predict``.
    """
    policy, env = _parts(model)
    vec_normalize = vec_normalize or _vec_normalize(env)
    outer = observation_space or _environment_space(env) or policy.observation_space
    leaves = pair_leaves(outer, policy.observation_space)
    action = action_spec(policy.action_space)
    if any(action.start):
        raise ConfigurationError(
            f"use actions that count from 0, as Stable-Baselines3 does; found {policy.action_space}"
        )
    observation = ObservationInput(leaves, vec_normalize, policy.normalize_images)
    _make_sizes_plain(policy)
    adapted = assemble(policy, Parts(leaves, observation, action))
    refresh(adapted, model, vec_normalize)
    check_agreement(adapted, policy, vec_normalize)
    return adapted


def refresh(adapted: SB3Policy, model: Model, vec_normalize: VecNormalize | None = None) -> None:
    """Copy the values that training changes outside of layers: DQN's exploration rate, VecNormalize's statistics."""
    vec_normalize = vec_normalize or _vec_normalize(_parts(model)[1])
    if vec_normalize is not None:
        adapted.observation.read_statistics(vec_normalize)
    if isinstance(adapted.head, GreedyHead):
        adapted.head.exploration_rate.fill_(getattr(model, "exploration_rate", 0.0))


def _parts(model: Model) -> tuple[BasePolicy, Any]:
    """Return the policy, and the vector environment if there is one."""
    if isinstance(model, BasePolicy):
        return model, None
    if not isinstance(getattr(model, "policy", None), BasePolicy):
        raise ConfigurationError(f"expected a Stable-Baselines3 model or policy, found {type(model).__name__}")
    return model.policy, model.get_env()


def _vec_normalize(env: Any) -> VecNormalize | None:
    return None if env is None else unwrap_vec_normalize(env)


def _environment_space(env: Any) -> spaces.Space[Any] | None:
    """Return the observation space before normalisation and transposition: the artifact does both."""
    while isinstance(env, VecEnvWrapper) and isinstance(env, VecNormalize | VecTransposeImage):
        env = env.venv
    return None if env is None else env.observation_space


def _make_sizes_plain(policy: nn.Module) -> None:
    """Replace the numpy integers that ``CombinedExtractor`` leaves in ``in_features``: TorchScript refuses them."""
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            module.in_features, module.out_features = int(module.in_features), int(module.out_features)


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
