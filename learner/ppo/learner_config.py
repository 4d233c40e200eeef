"""Settings of the learning algorithm. The module does not import torch, so that ``--help`` is fast."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from learner.networks.network_config import Activation, NetworkConfig, NetworkKind
from shared.errors import ConfigurationError

_NETWORK = NetworkConfig()


@dataclass(frozen=True)
class _Bound:
    """What holds for the numbers of these names, where they are given at all."""

    names: tuple[str, ...]
    expected: str
    holds: Callable[[float], bool]


_BOUNDS = (
    _Bound(
        ("recurrent_size", "rollout_length", "batch_steps", "epochs", "minibatch_size", "anneal_steps"),
        "is at least 1",
        lambda value: value >= 1,
    ),
    _Bound(("max_lag",), "is at least 0", lambda value: value >= 0),
    _Bound(
        ("learning_rate", "max_grad_norm", "max_rho", "clip", "value_clip", "target_kl"),
        "is above 0 and finite",
        lambda value: 0 < value < math.inf,
    ),
    _Bound(
        ("value_coefficient", "entropy_coefficient"),
        "is at least 0 and finite",
        lambda value: 0 <= value < math.inf,
    ),
    _Bound(("gamma", "trace_lambda", "final_fraction"), "lies in [0, 1]", lambda value: 0 <= value <= 1),
    # exp of it, squared and inverted too, stays well within float32.
    _Bound(("initial_log_std",), "lies in [-20, 20]", lambda value: -20 <= value <= 20),
)


@dataclass(frozen=True)
class LearnerConfig:
    """PPO with V-trace targets. The defaults suit CartPole-v1."""

    network: NetworkKind = _NETWORK.kind
    """Kind of policy network: a feed-forward one, or an LSTM or GRU for environments that hide part of their state."""
    hidden_sizes: tuple[int, ...] = _NETWORK.hidden_sizes
    """Units of each hidden layer (before the LSTM or GRU, where there is one)."""
    recurrent_size: int = _NETWORK.recurrent_size
    """Units of the LSTM or GRU (only with --network lstm or gru)."""
    activation: Activation = _NETWORK.activation
    """Activation between layers."""
    shared_trunk: bool = _NETWORK.shared_trunk
    """One network with two heads for policy and value; otherwise two networks, slower to train and less entangled."""
    initial_log_std: float = _NETWORK.initial_log_std
    """Logarithm of the standard deviation that exploration in a Box action space begins with."""

    rollout_length: int = 16
    """Steps of each environment in one rollout."""
    batch_steps: int = 512
    """Environment steps that one update learns from."""
    sync: bool = True
    """Synchronous training: actors wait for the version that their last rollouts led to. With --async (or --no-sync)
    they continue meanwhile: faster where environments are slow, with rollouts that lag a version or two."""
    max_lag: int = 4
    """Rollouts from a policy more than this many versions old are dropped."""

    epochs: int = 3
    """Passes over the batch in one update."""
    minibatch_size: int = 64
    """Steps in one gradient step."""
    learning_rate: float = 3e-3
    """Adam's step size."""
    anneal_steps: int | None = None
    """Environment steps over which learning rate, clip range and entropy coefficient fall linearly to final_fraction of
    what they were; without it they stay as they are."""
    final_fraction: float = 0.0
    """What is left of the learning rate, clip range and entropy coefficient after anneal_steps."""
    max_grad_norm: float | None = 0.5
    """Gradients longer than this are scaled down to it."""

    compile: bool = False
    """Compile the update with torch.compile, where autograd computes its gradients: for networks that see images. Takes
    half a minute at the start and a C++ compiler; where it can't be done, the log says why, and training goes on."""

    gamma: float = 0.99
    """Discount of the reward one step later."""
    trace_lambda: float = 0.95
    """Lambda of generalised advantage estimation and of V-trace."""
    max_rho: float = 1.0
    """Upper bound of V-trace's importance weights."""
    clip: float = 0.2
    """PPO's clip range of the probability ratio."""
    value_clip: float | None = None
    """How far the value may move from what it was, in the units that the network learns in; any distance by default."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    target_kl: float | None = None
    """Ends an update's epochs once the policy has moved this far (in nats)."""
    normalize_advantages: bool = True
    """Subtract the batch's mean advantage, and divide by its standard deviation."""

    normalize_observations: bool = True
    """Shift and scale vector observations by their running mean and standard deviation, inside the policy."""
    normalize_rewards: bool = True
    """Learn values in units of the returns' running root mean square."""

    def __post_init__(self) -> None:
        _require(all(size >= 1 for size in self.hidden_sizes), "hidden_sizes are at least 1", self.hidden_sizes)
        for bound in _BOUNDS:
            for name in bound.names:
                value = getattr(self, name)
                _require(value is None or bound.holds(value), f"{name} {bound.expected}", value)

    @property
    def network_config(self) -> NetworkConfig:
        """The part of the settings that the policy itself is built from."""
        return NetworkConfig(
            kind=self.network,
            hidden_sizes=self.hidden_sizes,
            recurrent_size=self.recurrent_size,
            activation=self.activation,
            shared_trunk=self.shared_trunk,
            normalize_observations=self.normalize_observations,
            initial_log_std=self.initial_log_std,
        )


def _require(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise ConfigurationError(f"{expected}; found {found}")
