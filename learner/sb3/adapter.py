"""``from_sb3(model)``: a Stable-Baselines3 model as a policy that can be published.

A model is taken apart by the class of its policy, and put together again under the policy contract out of its own
layers. What comes out is held to ``predict`` before anybody gets it, so that a policy class which computes its
actions in a way of its own is refused, not published wrongly.
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
    model: Model,
    *,
    observation_space: spaces.Space[Any] | None = None,
    vec_normalize: VecNormalize | None = None,
) -> SB3Policy:
    """``model`` (or its ``policy`` alone) as a module under the policy contract, with its ``signature``.

    PPO, A2C, DQN, SAC, TD3 and DDPG, MaskablePPO and RecurrentPPO, with any features extractor. The layers are shared
    with the model: ``refresh`` brings in what is no layer. ``observation_space`` is the environment's own, before
    wrappers of Stable-Baselines3 change it; if None, it is found in the model's environment, or taken to be what the
    model reads (images channels first). ``vec_normalize``: if None, that of the model's environment, where it has one.

    Raises ConfigurationError for what cannot be taken over, ExportError where the outcome is not what ``predict`` says.
    """
    policy, env = _parts(model)
    if vec_normalize is None and env is not None:
        vec_normalize = unwrap_vec_normalize(env)
    outer = observation_space or _environment_space(env) or policy.observation_space
    leaves = pair_leaves(outer, policy.observation_space)
    action = action_spec(policy.action_space)
    if any(action.start):
        raise ConfigurationError(f"{policy.action_space}: Stable-Baselines3 acts with numbers that count from 0")
    observation = ObservationInput(leaves, vec_normalize, policy.normalize_images)
    _make_sizes_plain(policy)
    adapted = assemble(policy, Parts(leaves, observation, action))
    refresh(adapted, model, vec_normalize)
    check_agreement(adapted, policy, vec_normalize)
    return adapted


def refresh(adapted: SB3Policy, model: Model, vec_normalize: VecNormalize | None = None) -> None:
    """Bring in what changes during training and is no layer: DQN's exploration rate, VecNormalize's statistics."""
    _, env = _parts(model)
    if vec_normalize is None and env is not None:
        vec_normalize = unwrap_vec_normalize(env)
    if vec_normalize is not None:
        adapted.observation.read_statistics(vec_normalize)
    if isinstance(adapted.head, GreedyHead):
        adapted.head.exploration_rate.fill_(getattr(model, "exploration_rate", 0.0))


def _parts(model: Model) -> tuple[BasePolicy, Any]:
    """The policy, and the vector environment where there is one."""
    if isinstance(model, BasePolicy):
        return model, None
    if not isinstance(getattr(model, "policy", None), BasePolicy):
        raise ConfigurationError(f"expected a Stable-Baselines3 model or policy, found {type(model).__name__}")
    return model.policy, model.get_env()


def _environment_space(env: Any) -> spaces.Space[Any] | None:
    """What the environment gives before it is normalised and transposed: both happen inside the artifact."""
    while isinstance(env, VecEnvWrapper) and isinstance(env, VecNormalize | VecTransposeImage):
        env = env.venv
    return None if env is None else env.observation_space


def _make_sizes_plain(policy: nn.Module) -> None:
    """``CombinedExtractor`` leaves numpy integers in ``in_features``, which TorchScript refuses."""
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            module.in_features, module.out_features = int(module.in_features), int(module.out_features)
