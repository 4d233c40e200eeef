"""``from_sb3(model)``: a Stable-Baselines3 model as a policy that can be published.

The class of the model's policy determines how its layers are assembled under the policy contract. The result is
compared with ``predict``, so that a policy class which computes its actions differently is refused.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize, VecTransposeImage, unwrap_vec_normalize
from torch import nn

from learner.sb3.action_heads import GreedyHead
from learner.sb3.agreement import check_agreement
from learner.sb3.assembly import Parts, SB3Policy, assemble
from learner.sb3.observation_input import ObservationInput, pair_leaves
from shared.errors import ConfigurationError
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
