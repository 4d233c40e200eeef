"""Action distributions whose randomness is an input, with gradients in closed form.

A distribution is a module that works in three steps, so that nothing is computed twice::

    terms = distribution.terms(head)                  # [N, P], such as normalised logits
    action = distribution.sample(terms, noise)        # zero noise gives the most likely action
    log_prob = distribution.log_prob(terms, action)   # [N], of the raw action
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ConfigurationError
from shared.policy.spaces import ActionSpec

_LARGEST = {torch.float16: 65504.0, torch.float32: 3.4028234663852886e38, torch.float64: 1.7976931348623157e308}

Weight = Tensor | float


def mask_logits(head: Tensor, mask: Tensor) -> Tensor:
    """Return logits ``[N, P]`` with which only actions whose ``mask`` (bool, same shape) is True can be drawn."""
    # Far below any logit, far from overflow: the probability of a masked action is exactly zero.
    return torch.where(mask, head, -1e8)


def make_distribution(action: ActionSpec, initial_log_std: float) -> "Distribution":
    """Return the distribution over the space ``action``."""
    match action.kind:
        case "discrete":
            return Categorical(action)
        case "multi_discrete":
            return MultiCategorical(action)
        case "multi_binary":
            return Bernoulli(action)
        case "box":
            return DiagonalGaussian(action, initial_log_std)
        case "none":
            raise ConfigurationError("a module that is no policy has no actions to draw")


class Distribution(nn.Module):
    """Base of the distributions. ``head_size`` is P; actions are int64 or float32 ``[N, *shape]``, as sampled."""

    head_size: int

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.env_dtype: torch.dtype = getattr(torch, action.dtype)

    def terms(self, head: Tensor) -> Tensor:
        """Return what the other methods need of the head ``[N, P]``: by default the head itself."""
        return head

    def terms_of_many(self, head: Tensor) -> Tensor:
        """Return ``terms``, bit for bit, but faster for many rows and few actions."""
        return self.terms(head)

    def sample(self, terms: Tensor, noise: Tensor) -> Tensor:
        """Return actions; ``noise`` is Gumbel, logistic or normal, as the signature says. Can be scripted."""
        raise NotImplementedError

    def log_prob(self, terms: Tensor, action: Tensor) -> Tensor:
        """Return the log-probabilities of actions, float32 ``[N]``. Can be scripted."""
        raise NotImplementedError

    def env_action(self, action: Tensor) -> Tensor:
        """Return actions as the environment receives them, in its dtype. Can be scripted."""
        return action.to(self.env_dtype)

    def entropy(self, terms: Tensor) -> Tensor:
        """Return entropies in nats, float32 ``[N]``."""
        raise NotImplementedError

    def gradient(self, terms: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
        """Return the gradient of the head, ``[N, P]``, as autograd would, in a fifth of the time.

        It is the derivative of ``sum(log_prob_gradient * log_prob + entropy_gradient * entropy)``. That of the
        distribution's own parameters overwrites their ``grad``.
        """
        raise NotImplementedError


def _log_softmax_by_column(x: Tensor) -> Tensor:
    return functional.log_softmax(x.t().contiguous(), 0).t()


def _categorical_gradient(log_p: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
    # d log p_a / d z = onehot(a) - p  and  dH / dz = -p (log p + H)
    p = log_p.exp()
    gradient = p * -log_prob_gradient.unsqueeze(-1)
    gradient.scatter_add_(-1, action.unsqueeze(-1), log_prob_gradient.unsqueeze(-1))
    if isinstance(entropy_gradient, Tensor) or entropy_gradient != 0:
        weight = entropy_gradient.unsqueeze(-1) if isinstance(entropy_gradient, Tensor) else entropy_gradient
        plogp = p * log_p
        gradient -= weight * (plogp - p * plogp.sum(-1, keepdim=True))
    return gradient


class Categorical(Distribution):
    """Distribution over a Discrete space; samples by the Gumbel-max method. Its terms are normalised logits."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__(action)
        self.head_size = action.cardinalities[0]
        self.start = action.start[0]

    def terms(self, head: Tensor) -> Tensor:
        return functional.log_softmax(head, -1)

    def terms_of_many(self, head: Tensor) -> Tensor:
        return _log_softmax_by_column(head)

    def sample(self, terms: Tensor, noise: Tensor) -> Tensor:
        return (terms + noise).argmax(-1)

    def log_prob(self, terms: Tensor, action: Tensor) -> Tensor:
        return terms.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def env_action(self, action: Tensor) -> Tensor:
        return (action + self.start).to(self.env_dtype)

    def entropy(self, terms: Tensor) -> Tensor:
        return -(terms.exp() * terms).sum(-1)

    def gradient(self, terms: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
        return _categorical_gradient(terms, action, log_prob_gradient, entropy_gradient)


class MultiCategorical(Distribution):
    """Distribution over a MultiDiscrete space: independent categoricals side by side."""

    start: Tensor

    def __init__(self, action: ActionSpec) -> None:
        super().__init__(action)
        self.sizes = list(action.cardinalities)
        self.head_size = sum(self.sizes)
        self.register_buffer("start", torch.tensor(action.start, dtype=torch.int64))

    def terms(self, head: Tensor) -> Tensor:
        return torch.cat(
            [functional.log_softmax(part, -1) for part in torch.split_with_sizes(head, self.sizes, -1)], -1
        )

    def terms_of_many(self, head: Tensor) -> Tensor:
        return torch.cat([_log_softmax_by_column(part) for part in torch.split_with_sizes(head, self.sizes, -1)], -1)

    def sample(self, terms: Tensor, noise: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in torch.split_with_sizes(terms + noise, self.sizes, -1)], -1)

    def log_prob(self, terms: Tensor, action: Tensor) -> Tensor:
        parts = torch.split_with_sizes(terms, self.sizes, -1)
        chosen = [part.gather(-1, action[:, i : i + 1]) for i, part in enumerate(parts)]
        return torch.cat(chosen, -1).sum(-1)

    def env_action(self, action: Tensor) -> Tensor:
        return (action + self.start).to(self.env_dtype)

    def entropy(self, terms: Tensor) -> Tensor:
        return -(terms.exp() * terms).sum(-1)

    def gradient(self, terms: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
        parts = enumerate(torch.split_with_sizes(terms, self.sizes, -1))
        return torch.cat(
            [_categorical_gradient(part, action[:, i], log_prob_gradient, entropy_gradient) for i, part in parts], -1
        )


class Bernoulli(Distribution):
    """Distribution over a MultiBinary space; an action is 1 where logit plus logistic noise is above 0."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__(action)
        self.head_size = math.prod(action.shape)

    def sample(self, terms: Tensor, noise: Tensor) -> Tensor:
        return (terms.reshape_as(noise) + noise > 0).to(torch.int64)

    def log_prob(self, terms: Tensor, action: Tensor) -> Tensor:
        sign = action.flatten(1).to(torch.float32) * 2 - 1
        return functional.logsigmoid(terms * sign).sum(-1)

    def entropy(self, terms: Tensor) -> Tensor:
        p = terms.sigmoid()
        return -(p * functional.logsigmoid(terms) + (1 - p) * functional.logsigmoid(-terms)).sum(-1)

    def gradient(self, terms: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
        # d log p / d z = a - p  and  dH / dz = -z p (1 - p)
        p = terms.sigmoid()
        weight = entropy_gradient.unsqueeze(-1) if isinstance(entropy_gradient, Tensor) else entropy_gradient
        return log_prob_gradient.unsqueeze(-1) * (action.flatten(1) - p) - weight * terms * p * (1 - p)


class DiagonalGaussian(Distribution):
    """Normal distribution around the head, over a Box space. Only ``env_action`` is clipped to the bounds."""

    low: Tensor
    high: Tensor

    def __init__(self, action: ActionSpec, initial_log_std: float) -> None:
        super().__init__(action)
        self.head_size = math.prod(action.shape)
        self.half_log_two_pi = 0.5 * math.log(2 * math.pi)
        self.log_std = nn.Parameter(torch.full((self.head_size,), initial_log_std))
        # Actors refuse weights that are not finite, so the largest number stands for "unbounded".
        largest = _LARGEST[self.env_dtype]
        low = [-largest if bound is None else bound for bound in action.low or [None] * self.head_size]
        high = [largest if bound is None else bound for bound in action.high or [None] * self.head_size]
        self.register_buffer("low", torch.tensor(low, dtype=self.env_dtype).reshape(action.shape))
        self.register_buffer("high", torch.tensor(high, dtype=self.env_dtype).reshape(action.shape))

    def sample(self, terms: Tensor, noise: Tensor) -> Tensor:
        return (terms + noise.reshape(-1, self.head_size) * self.log_std.exp()).reshape_as(noise)

    def log_prob(self, terms: Tensor, action: Tensor) -> Tensor:
        deviation = (action.reshape(-1, self.head_size) - terms) * torch.exp(-self.log_std)
        return (-0.5 * deviation * deviation - self.log_std - self.half_log_two_pi).sum(-1)

    def env_action(self, action: Tensor) -> Tensor:
        return action.to(self.env_dtype).clamp(self.low, self.high)

    def entropy(self, terms: Tensor) -> Tensor:
        return (self.log_std + (0.5 + self.half_log_two_pi)).sum().expand(terms.shape[0])

    def gradient(self, terms: Tensor, action: Tensor, log_prob_gradient: Tensor, entropy_gradient: Weight) -> Tensor:
        inverse_std = torch.exp(-self.log_std)
        deviation = (action.reshape(-1, self.head_size) - terms) * inverse_std
        weighted = log_prob_gradient.unsqueeze(-1) * deviation
        entropy_total = (
            entropy_gradient.sum() if isinstance(entropy_gradient, Tensor) else entropy_gradient * terms.shape[0]
        )
        own = (weighted * deviation).sum(0) - log_prob_gradient.sum() + entropy_total
        if self.log_std.grad is None:
            self.log_std.grad = own
        else:
            self.log_std.grad.copy_(own)
        return weighted * inverse_std
