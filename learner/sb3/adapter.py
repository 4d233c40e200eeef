"""A Stable-Baselines3 model as a policy that can be published, compared with the model's own ``predict``."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_normalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from learner.sb3.action_heads import (
    DeterministicHead,
    DistributionHead,
    GreedyHead,
    Head,
    QuantileMean,
    SquashedGaussianHead,
    StateDependentHead,
)
from learner.sb3.observation_input import Leaf, ObservationInput, pair_leaves
from learner.sb3.policies import (
    ArrayFeatures,
    CriticModules,
    DictFeatures,
    FeedForwardPolicy,
    LstmStep,
    RecurrentPolicy,
)
from shared.errors import ConfigurationError, ExportError
from shared.policy.probe import make_inputs, run_policy
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.spaces import ActionSpec, Path, action_spec

SB3Policy = FeedForwardPolicy | RecurrentPolicy
ActorCritic = ActorCriticPolicy | MaskableActorCriticPolicy


@dataclass(frozen=True)
class Parts:
    """The parts that the policies of all algorithms have."""

    leaves: Sequence[Leaf]
    observation: ObservationInput
    action: ActionSpec

    def features(self, extractor: nn.Module) -> nn.Module:
        keys = [leaf.key for leaf in self.leaves if leaf.key is not None]
        return DictFeatures(extractor, keys) if keys else ArrayFeatures(extractor)

    def signature(
        self, head: Head, *, value: bool, masked: bool = False, state: Sequence[tuple[Path, tuple[int, ...]]] = ()
    ) -> PolicySignature:
        return acting_signature(
            tuple(leaf.spec for leaf in self.leaves),
            self.action,
            state=state,
            masked=masked,
            noise=head.is_random,
            log_prob=head.is_random,
            value=value,
        )


def assemble(policy: BasePolicy, parts: Parts) -> SB3Policy:
    """Return the layers of ``policy`` under the policy contract. Raises ConfigurationError for an unknown class."""
    layers: nn.Module = nn.Identity()
    network: Any
    head: Head
    match policy:
        case RecurrentActorCriticPolicy():
            return _recurrent(policy, parts)
        case ActorCriticPolicy() | MaskableActorCriticPolicy():
            return _actor_critic(policy, parts)
        case DQNPolicy():
            network, head = policy.q_net, GreedyHead(policy.q_net.q_net, parts.action)
        case QRDQNPolicy():
            network = policy.quantile_net
            head = GreedyHead(QuantileMean(network.quantile_net, network.n_quantiles), parts.action)
        case SACPolicy() | TQCPolicy() | CrossQPolicy():
            network, layers, head = policy.actor, policy.actor.latent_pi, _sac_head(policy.actor, parts.action)
        case TD3Policy():
            network, head = policy.actor, DeterministicHead(policy.actor.mu, parts.action, squashes=True)
        case ARSPolicy():
            network, head = policy, _ars_head(policy, parts.action)
        case _:
            raise ConfigurationError(
                "expected a policy of an algorithm of Stable-Baselines3 or sb3-contrib, "
                f"found {type(policy).__module__}.{type(policy).__name__}"
            )
    return _without_value(network, layers, head, parts)


def _without_value(network: Any, layers: nn.Module, head: Head, parts: Parts) -> FeedForwardPolicy:
    return FeedForwardPolicy(
        parts.signature(head, value=False),
        parts.observation,
        features=parts.features(network.features_extractor),
        layers=layers,
        head=head,
    )


def _actor_critic(policy: ActorCritic, parts: Parts) -> FeedForwardPolicy:
    masked = isinstance(policy, MaskableActorCriticPolicy)
    head = _actor_critic_head(policy, parts.action, masked=masked)
    return FeedForwardPolicy(
        parts.signature(head, value=True, masked=masked),
        parts.observation,
        features=parts.features(policy.pi_features_extractor),
        layers=policy.mlp_extractor.policy_net,
        head=head,
        value_features=None if policy.share_features_extractor else parts.features(policy.vf_features_extractor),
        value=nn.Sequential(policy.mlp_extractor.value_net, policy.value_net),
    )


def _recurrent(policy: RecurrentActorCriticPolicy, parts: Parts) -> RecurrentPolicy:
    lstm, own_lstm = policy.lstm_actor, policy.lstm_critic
    if lstm.bidirectional or lstm.proj_size:
        raise ConfigurationError(
            "use an LSTM that is neither bidirectional nor projects its output: others cannot act step by step"
        )
    owners = ("actor",) if own_lstm is None else ("actor", "critic")
    shape = (lstm.num_layers, lstm.hidden_size)
    head = _actor_critic_head(policy, parts.action, masked=False)
    return RecurrentPolicy(
        parts.signature(head, value=True, state=[((owner, name), shape) for owner in owners for name in ("h", "c")]),
        parts.observation,
        features=parts.features(policy.pi_features_extractor),
        lstm=LstmStep(lstm),
        layers=policy.mlp_extractor.policy_net,
        head=head,
        critic=CriticModules(
            None if policy.share_features_extractor else parts.features(policy.vf_features_extractor),
            policy.critic if own_lstm is None else LstmStep(own_lstm),
            nn.Sequential(policy.mlp_extractor.value_net, policy.value_net),
        ),
    )


def _actor_critic_head(policy: ActorCritic, action: ActionSpec, *, masked: bool) -> Head:
    distribution = policy.action_dist
    if isinstance(distribution, StateDependentNoiseDistribution):
        return _state_dependent_head(distribution, policy.action_net, policy.log_std, action)
    if masked and action.mask_shape is None:
        raise ConfigurationError(f"{policy.action_space}: masks exist for Discrete and MultiDiscrete actions only")
    return DistributionHead(policy.action_net, action, getattr(policy, "log_std", None), masked)


def _ars_head(policy: ARSPolicy, action: ActionSpec) -> Head:
    if action.kind == "discrete":
        return GreedyHead(policy.action_net, action)
    return DeterministicHead(policy.action_net, action, squashes=policy.squash_output)


def _sac_head(actor: Any, action: ActionSpec) -> Head:
    if actor.use_sde:
        return _state_dependent_head(actor.action_dist, actor.mu, actor.log_std, action)
    return SquashedGaussianHead(actor.mu, actor.log_std, LOG_STD_MIN, LOG_STD_MAX, action)


def _state_dependent_head(
    distribution: StateDependentNoiseDistribution, mean: nn.Module, log_std: Any, action: ActionSpec
) -> Head:
    return StateDependentHead(
        mean,
        log_std,
        action,
        squashes=distribution.bijector is not None,
        uses_expln=distribution.use_expln,
        epsilon=distribution.epsilon,
    )


Model = BaseAlgorithm | BasePolicy


def from_sb3(
    model: Model, *, observation_space: spaces.Space[Any] | None = None, vec_normalize: VecNormalize | None = None
) -> SB3Policy:
    """Return ``model`` as a module under the policy contract, with its ``signature``.

    Supports every algorithm of Stable-Baselines3 (PPO, A2C, DQN, SAC, TD3, DDPG) and sb3-contrib (TRPO, ARS, TQC,
    QRDQN, CrossQ, MaskablePPO, RecurrentPPO), with any features extractor. The layers are shared with the model;
    ``refresh`` updates all else.

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
    vec_normalize = vec_normalize or unwrap_vec_normalize(env)
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
    vec_normalize = vec_normalize or unwrap_vec_normalize(_parts(model)[1])
    if vec_normalize is not None:
        adapted.observation.read_statistics(vec_normalize)
    if isinstance(adapted.head, GreedyHead):
        adapted.head.exploration_rate.fill_(getattr(model, "exploration_rate", 0.0))


def _parts(model: Model) -> tuple[BasePolicy, Any]:
    if isinstance(model, BasePolicy):
        return model, None
    if not isinstance(getattr(model, "policy", None), BasePolicy):
        raise ConfigurationError(f"expected a Stable-Baselines3 model or policy, found {type(model).__name__}")
    return model.policy, model.get_env()


def _environment_space(env: Any) -> spaces.Space[Any] | None:
    while isinstance(env, VecNormalize | VecTransposeImage):
        env = env.venv
    return None if env is None else env.observation_space


def _make_sizes_plain(policy: nn.Module) -> None:
    """Replace the numpy integers that ``CombinedExtractor`` leaves in ``in_features``: TorchScript refuses them."""
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            module.in_features, module.out_features = int(module.in_features), int(module.out_features)


_ROWS = 16
_ATOL = _RTOL = 1e-5


def check_agreement(adapted: SB3Policy, policy: BasePolicy, vec_normalize: VecNormalize | None) -> None:
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
