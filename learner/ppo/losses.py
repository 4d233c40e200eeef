"""Losses of PPO for each step, and their gradients in closed form. The caller weighs and sums them.

Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7. The probability ratio is relative to the policy
that acted, however old: it is the importance weight of the step, and its clipping bounds the distance from the data
that lag and update cause together. (With rollouts one version old, ratios relative to the policy at the start of the
update needed twice as many steps, or did not converge.) All arguments and results are float32 ``[N]``.
"""

import torch
from torch import Tensor


def policy_loss(log_prob: Tensor, behaviour_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return ``-min(r A, clip(r, 1 - clip, 1 + clip) A)``, with the probability ratio ``r``."""
    ratio = torch.exp(log_prob - behaviour_log_prob)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def policy_loss_gradient(log_prob: Tensor, behaviour_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return the derivative of ``policy_loss`` with respect to ``log_prob``: zero where the ratio is clipped."""
    ratio = torch.exp(log_prob - behaviour_log_prob)
    surrogate = ratio * advantage
    inside = surrogate <= ratio.clamp_(1 - clip, 1 + clip).mul_(advantage)
    return surrogate.mul_(inside).neg_()


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """Return ``(V - target)^2 / 2``; with ``clip``, the larger of that and the loss at the clipped value."""
    loss = 0.5 * (value - target).square()
    if clip is None:
        return loss
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (clipped - target).square())


def value_loss_gradient(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """Return the derivative of ``value_loss`` with respect to ``value``."""
    error = value - target
    if clip is None:
        return error
    change = value - old_value
    clipped = old_value + change.clamp(-clip, clip)
    return error * ((change.abs() <= clip) | (error.abs() >= (clipped - target).abs()))


def approximate_kl(log_prob: Tensor, behaviour_log_prob: Tensor) -> Tensor:
    """Estimate KL(behaviour, current); never negative (k3 of http://joschu.net/blog/kl-approx.html)."""
    log_ratio = log_prob - behaviour_log_prob
    return torch.expm1(log_ratio) - log_ratio


def is_clipped(log_prob: Tensor, behaviour_log_prob: Tensor, clip: float) -> Tensor:
    """Return 1 where the probability ratio is outside ``[1 - clip, 1 + clip]``, else 0."""
    return (torch.expm1(log_prob - behaviour_log_prob).abs() > clip).float()
