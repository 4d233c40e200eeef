"""Settings of the learning algorithm. The module does not import torch, so that ``--help`` is fast."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from learner.networks.network_config import Activation, NetworkConfig, NetworkKind
from shared.errors import ConfigurationError

_NETWORK = NetworkConfig()

# Expected, condition, names of the settings, which may also be None.
_BOUNDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("at least 1", lambda sizes: all(size >= 1 for size in sizes), "hidden_sizes"),
    ("at least 1", lambda x: x >= 1, "recurrent_size rollout_length batch_steps epochs minibatch_size anneal_steps"),
    ("at least 0", lambda x: x >= 0, "max_lag"),
    ("above 0 and finite", lambda x: 0 < x < math.inf, "max_grad_norm max_rho clip value_clip target_kl"),
    ("at least 0 and finite", lambda x: 0 <= x < math.inf, "value_coefficient entropy_coefficient"),
    ("above 0 and at most 1e30", lambda x: 0 < x <= 1e30, "learning_rate"),
    ("above 0 and at most 3e38", lambda x: 0 < x <= 3e38, "reward_limit"),
    ("in [0, 1]", lambda x: 0 <= x <= 1, "gamma trace_lambda final_fraction"),
    # Its exponential, also squared and inverted, stays well within float32.
    ("in [-20, 20]", lambda x: -20 <= x <= 20, "initial_log_std"),
)


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of PPO with V-trace targets. The defaults suit CartPole-v1."""

    network: NetworkKind = _NETWORK.kind
    """Policy network. mlp: feed-forward; lstm or gru: with memory, for environments that hide part of their state."""
    hidden_sizes: tuple[int, ...] = _NETWORK.hidden_sizes
    """Units of each hidden layer; with lstm or gru, of the layers before it."""
    recurrent_size: int = _NETWORK.recurrent_size
    """Units of the LSTM or GRU."""
    activation: Activation = _NETWORK.activation
    """Activation function of the hidden layers."""
    shared_trunk: bool = _NETWORK.shared_trunk
    """Share the hidden layers between policy and value. Faster, but their gradients interfere."""
    initial_log_std: float = _NETWORK.initial_log_std
    """Natural logarithm of the initial standard deviation of actions. Box action spaces only."""
    rollout_length: int = 16
    """Steps of each environment in a rollout."""
    batch_steps: int = 512
    """Environment steps in an update, over all environments."""
    sync: bool = True
    """Let actors wait for each update and act with its result.
    --async: actors never wait, and rollouts lag a version or two behind; faster if environments are slow."""
    max_lag: int = 4
    """Drop rollouts of policies that are more versions old than this."""
    reward_limit: float = 1e6
    """Largest magnitude of a reward. Rollouts with larger ones, or with values that are not finite, are rejected;
    ten in a row from one actor end the training with exit code 4."""
    epochs: int = 3
    """Passes over the batch in an update."""
    minibatch_size: int = 64
    """Steps in a minibatch, which gives one gradient step."""
    learning_rate: float = 3e-3
    """Step size of Adam."""
    anneal_steps: int | None = None
    """Reduce learning rate, clip range and entropy coefficient linearly over this many environment steps.
    None: they are constant."""
    final_fraction: float = 0.0
    """Fraction of the learning rate, clip range and entropy coefficient that remains after --anneal-steps."""
    max_grad_norm: float | None = 0.5
    """Scale gradients with a larger norm down to this norm; None: no limit."""
    compile: bool = False
    """Compile the update with torch.compile; only for networks with images, and needs a C++ compiler.
    Takes 30 s at the start. If it is not possible, the log gives the reason and training continues."""
    gamma: float = 0.99
    """Discount factor of rewards, per step."""
    trace_lambda: float = 0.95
    """Lambda of generalised advantage estimation and V-trace."""
    max_rho: float = 1.0
    """Upper bound of V-trace's importance weights (rho-bar)."""
    clip: float = 0.2
    """Clip range of PPO's probability ratio."""
    value_clip: float | None = None
    """Clip range of the change of values in an update, in normalised units; None: no limit."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, which favours exploration."""
    target_kl: float | None = None
    """End an update after the epoch in which the policy's KL divergence (nats) exceeds this; None: never."""
    normalize_advantages: bool = True
    """Scale the advantages of each batch to zero mean and unit standard deviation."""
    normalize_observations: bool = True
    """Scale vector observations by their running mean and standard deviation. The policy contains the scaling."""
    normalize_rewards: bool = True
    """Learn values in units of the root mean square of returns."""

    def __post_init__(self) -> None:
        for expected, holds, names in _BOUNDS:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise ConfigurationError(f"{name} must be {expected}; found {value}")

    @property
    def network_config(self) -> NetworkConfig:
        """Settings of the policy's network."""
        return NetworkConfig(
            kind=self.network,
            hidden_sizes=self.hidden_sizes,
            recurrent_size=self.recurrent_size,
            activation=self.activation,
            shared_trunk=self.shared_trunk,
            normalize_observations=self.normalize_observations,
            initial_log_std=self.initial_log_std,
        )
