"""Formulas of actions that several training libraries share: scaling to bounds, tanh, and greedy choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.errors import ConfigurationError
from shared.policy.spaces import ActionSpec

Bounds = Sequence[float | None]


@dataclass(frozen=True)
class Scaling:
    """A Box policy whose ``action`` is in [-1, 1], and whose ``env_action`` is that, scaled to bounds.

    ``squashes``: tanh limits the sample. Otherwise the scaled action is clipped. ``squashes_mean``: tanh limits the
    action without noise, too. The default bounds are the space's.
    """

    squashes: bool
    squashes_mean: bool = True
    low: Bounds | None = None
    high: Bounds | None = None


class Unscale(nn.Module):
    """Scales from [-1, 1] to bounds, by default those of the space."""

    low: Tensor
    high: Tensor

    def __init__(self, action: ActionSpec, low: Bounds | None = None, high: Bounds | None = None) -> None:
        """Raises ConfigurationError if a bound is missing."""
        super().__init__()
        low, high = low or action.low, high or action.high
        if not low or None in low or None in high:
            raise ConfigurationError("give the action space bounds on every side: the action is scaled to them")
        self._dtype: torch.dtype = getattr(torch, action.dtype)
        self.register_buffer("low", torch.tensor(low, dtype=self._dtype).reshape(action.shape))
        self.register_buffer("high", torch.tensor(high, dtype=self._dtype).reshape(action.shape))

    def forward(self, action: Tensor) -> Tensor:
        unscaled = self.low + 0.5 * (action.to(self._dtype) + 1.0) * (self.high - self.low)
        # Rounding may exceed the bounds.
        return unscaled.clamp(self.low, self.high)


def lead_of_best(values: Tensor) -> Tensor:
    """Return the lead of the highest of ``values`` [B, n] over the next [B], relative to its size if above 1."""
    if values.shape[-1] == 1:
        return torch.full(values.shape[:1], torch.inf)
    best, second = values.topk(2, -1).values.unbind(-1)
    relative: Tensor = (best - second) / best.abs().clamp(min=1)
    return relative


def normal_log_prob(noise: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-density of ``mean + noise * exp(log_std)``, summed over dimensions: float32 ``[B]``."""
    half_log_two_pi = 0.9189385332046727
    return (-0.5 * noise * noise - log_std - half_log_two_pi).sum(-1)


def log_tanh_derivative(gaussian: Tensor) -> Tensor:
    """Return ``log(1 - tanh(x)**2)`` of ``x`` ``[B, D]``, summed, in a form that rounds alike in all engines."""
    decay = torch.exp(-2 * gaussian.abs())
    derivative = 4 * decay / (1 + decay).square()
    return torch.log(derivative + 1e-6).sum(-1)  # Stable-Baselines3's own epsilon
