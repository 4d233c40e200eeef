"""Assembly of each algorithm's policy from its own layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from learner.sb3.action_heads import DistributionHead, GreedyHead, SquashedGaussianHead, StateDependentHead, TanhHead
from learner.sb3.observation_input import Leaf, ObservationInput
from learner.sb3.policies import (
    ArrayFeatures,
    CriticModules,
    DictFeatures,
    FeedForwardPolicy,
    LstmStep,
    RecurrentPolicy,
)
from shared.errors import ConfigurationError
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.spaces import ActionSpec, Path

SB3Policy = FeedForwardPolicy | RecurrentPolicy
Head = DistributionHead | GreedyHead | SquashedGaussianHead | StateDependentHead | TanhHead
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
            noise=head.has_noise,
            log_prob=head.has_log_prob,
            value=value,
        )


def assemble(policy: BasePolicy, parts: Parts) -> SB3Policy:
    """Return the layers of ``policy`` under the policy contract. Raises ConfigurationError for an unknown class."""
    match policy:
        case RecurrentActorCriticPolicy():
            return _recurrent(policy, parts)
        case ActorCriticPolicy() | MaskableActorCriticPolicy():
            return _actor_critic(policy, parts)
        case DQNPolicy():
            return _without_value(policy.q_net, nn.Identity(), GreedyHead(policy.q_net.q_net, parts.action), parts)
        case SACPolicy():
            return _without_value(policy.actor, policy.actor.latent_pi, _sac_head(policy.actor, parts.action), parts)
        case TD3Policy():
            return _without_value(policy.actor, nn.Identity(), TanhHead(policy.actor.mu, parts.action), parts)
    raise ConfigurationError(
        "expected a policy of PPO, A2C, DQN, SAC, TD3, MaskablePPO or RecurrentPPO, "
        f"found {type(policy).__module__}.{type(policy).__name__}"
    )


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
