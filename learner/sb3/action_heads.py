"""The last step of each algorithm: from features and noise to action, environment action and log-probability.

A head takes the policy's features and the inputs that follow the state (mask, noise). It returns ``action``,
``env_action`` if the space has one, and ``log_prob`` if the algorithm has one. Noise of zeros gives the action of
``predict(deterministic=True)``.
"""

import torch
from torch import Tensor, nn

from learner.networks.action_scaling import Unscale, lead_of_best, log_tanh_derivative, normal_log_prob
from learner.networks.distributions import DiagonalGaussian, make_distribution, mask_logits
from shared.policy.spaces import ActionSpec


class Head(nn.Module):
    """Base of the heads. A random head takes noise and returns a log-probability."""

    is_random = True


class DistributionHead(Head):
    """PPO and A2C: a categorical, Bernoulli or diagonal Gaussian distribution around a linear layer."""

    def __init__(self, layer: nn.Module, action: ActionSpec, log_std: nn.Parameter | None, masked: bool) -> None:
        super().__init__()
        self.layer = layer
        self.distribution = make_distribution(action, 0.0)
        if isinstance(self.distribution, DiagonalGaussian) and log_std is not None:
            self.distribution.log_std = log_std  # shared with the model
        self._masked = masked
        self._has_env_action = action.has_env_action

    def forward(self, features: Tensor, rest: list[Tensor]) -> list[Tensor]:
        logits = self.layer(features)
        if self._masked:
            logits = mask_logits(logits, rest[0])
        terms = self.distribution.terms(logits)
        action = self.distribution.sample(terms, rest[-1])
        outputs = [action]
        if self._has_env_action:
            outputs.append(self.distribution.env_action(action))
        outputs.append(self.distribution.log_prob(terms, action))
        return outputs


class Clip(nn.Module):
    """Clips to the bounds of the space, if there are any."""

    low: Tensor
    high: Tensor

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        gaussian = DiagonalGaussian(action, 0.0)
        self._dtype: torch.dtype = getattr(torch, action.dtype)
        self.register_buffer("low", gaussian.low)
        self.register_buffer("high", gaussian.high)

    def forward(self, action: Tensor) -> Tensor:
        return action.to(self._dtype).clamp(self.low, self.high)


class DeterministicHead(Head):
    """TD3, DDPG, and ARS with Box actions: the action without noise and log-probability.

    The layer's tanh squashes the action, or else the environment's bounds clip it.
    """

    is_random = False

    def __init__(self, layer: nn.Module, action: ActionSpec, *, squashes: bool) -> None:
        super().__init__()
        self.layer = layer
        self.to_environment = Unscale(action) if squashes else Clip(action)
        self._has_env_action = action.has_env_action
        self._sizes = [-1, *action.shape]

    def forward(self, features: Tensor, rest: list[Tensor]) -> list[Tensor]:  # noqa: ARG002
        action = self.layer(features).reshape(self._sizes)
        outputs = [action]
        if self._has_env_action:
            outputs.append(self.to_environment(action))
        return outputs


class SquashedGaussianHead(Head):
    """SAC, TQC, CrossQ: a Gaussian squashed by tanh. ``action`` is in [-1, 1]; ``log_prob`` is its log-probability."""

    def __init__(self, mean: nn.Module, log_std: nn.Module, low: float, high: float, action: ActionSpec) -> None:
        """``low`` and ``high`` bound the logarithm of the standard deviation."""
        super().__init__()
        self.mean = mean
        self.log_std = log_std
        self.unscale = Unscale(action)
        self._low = low
        self._high = high
        self._sizes = [-1, *action.shape]

    def forward(self, features: Tensor, rest: list[Tensor]) -> list[Tensor]:
        log_std = self.log_std(features).clamp(self._low, self._high)
        noise = rest[-1].flatten(1)
        gaussian = self.mean(features) + noise * log_std.exp()
        log_prob = normal_log_prob(noise, log_std) - log_tanh_derivative(gaussian)
        action = torch.tanh(gaussian).reshape(self._sizes)
        return [action, self.unscale(action), log_prob]


class StateDependentHead(Head):
    """Exploration that depends on the state (Raffin et al. 2020), squashed or not, with new noise at every step."""

    def __init__(
        self,
        mean: nn.Module,
        log_std: nn.Parameter,
        action: ActionSpec,
        *,
        squashes: bool,
        uses_expln: bool,
        epsilon: float,
    ) -> None:
        """``log_std`` is ``[features, D]``, or ``[features, 1]`` if all dimensions share it."""
        super().__init__()
        self.mean = mean
        self.log_std = log_std
        self.to_environment = Unscale(action) if squashes else Clip(action)
        self._squashes = squashes
        self._uses_expln = uses_expln
        self._epsilon = epsilon
        self._has_env_action = action.has_env_action
        self._sizes = [-1, *action.shape]

    def forward(self, features: Tensor, rest: list[Tensor]) -> list[Tensor]:
        noise = rest[-1].flatten(1)
        variance = torch.mm(features.square(), self._std().square()) + self._epsilon
        gaussian = self.mean(features) + noise * variance.sqrt()
        log_prob = normal_log_prob(noise, 0.5 * variance.log().expand_as(noise))
        action = gaussian
        if self._squashes:
            action = torch.tanh(gaussian)
            log_prob = log_prob - log_tanh_derivative(gaussian)
        action = action.reshape(self._sizes)
        outputs = [action]
        if self._has_env_action:
            outputs.append(self.to_environment(action))
        outputs.append(log_prob)
        return outputs

    def _std(self) -> Tensor:
        log_std = self.log_std
        if not self._uses_expln:
            return log_std.exp()
        return torch.where(log_std > 0, torch.log1p(log_std.clamp(min=0) + self._epsilon) + 1, log_std.exp())


class QuantileMean(nn.Module):
    """The Q-values of quantiles: their mean for each action, ``[B, n]``."""

    def __init__(self, quantiles: nn.Module, n_quantiles: int) -> None:
        super().__init__()
        self.quantiles = quantiles
        self._n_quantiles = n_quantiles

    def forward(self, features: Tensor) -> Tensor:
        quantiles = self.quantiles(features).unflatten(-1, [self._n_quantiles, -1])
        return torch.mean(quantiles, 1)


class GreedyHead(Head):
    """DQN, QR-DQN, and ARS with Discrete actions: the action of the highest value, or with
    probability ``exploration_rate`` a random one.

    The position of the largest Gumbel noise is the random action, and its size decides whether to explore: the two are
    independent (Maddison et al. 2014, "A* sampling").
    """

    exploration_rate: Tensor

    def __init__(self, layer: nn.Module, action: ActionSpec) -> None:
        super().__init__()
        self.layer = layer
        self._n = action.cardinalities[0]
        self.register_buffer("exploration_rate", torch.tensor(0.0))

    def lead(self, features: Tensor) -> Tensor:
        """Return the lead of the highest value over the next [B], relative to its size if that is above 1."""
        return lead_of_best(self.layer(features))

    def forward(self, features: Tensor, rest: list[Tensor]) -> list[Tensor]:
        noise = rest[-1]
        greedy = self.layer(features).argmax(-1)
        # exp(-n exp(-x)) is the distribution function of the largest of n: its value is uniform in [0, 1].
        uniform = torch.exp(-self._n * torch.exp(-noise.amax(-1)))
        explores = (uniform > 1 - self.exploration_rate) & (noise != 0).any(-1)
        action = torch.where(explores, noise.argmax(-1), greedy)
        anything = self.exploration_rate / self._n
        probability = torch.where(action == greedy, 1 - self.exploration_rate + anything, anything)
        return [action, probability.log()]
