"""PPO's losses and their gradients in closed form, one number for each step; the caller weighs and sums.

Schulman et al. 2017, "Proximal policy optimization algorithms". The ratio is that to the policy which acted, however
old: it is each step's importance weight, and clipping it bounds how far lag and update together lead away from the
data. (With rollouts one version old, ratios to the policy that the update began with needed twice the steps here, or
never came to rest.) All arguments are float ``[N]``.
"""

import torch
from torch import Tensor


def policy_loss(log_prob: Tensor, behaviour_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """``-min(r A, clip(r, 1 - clip, 1 + clip) A)`` for each step, with ``r`` the probability ratio."""
    ratio = torch.exp(log_prob - behaviour_log_prob)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def policy_loss_gradient(log_prob: Tensor, behaviour_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Derivative of each ``policy_loss`` with respect to its ``log_prob``: zero once the ratio is clipped."""
    ratio = torch.exp(log_prob - behaviour_log_prob)
    surrogate = ratio * advantage
    inside = surrogate <= ratio.clamp_(1 - clip, 1 + clip).mul_(advantage)
    return surrogate.mul_(inside).neg_()


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """``(V - target)^2 / 2`` for each step; with ``clip``, the larger one of that and the loss at the clipped value."""
    loss = 0.5 * (value - target).square()
    if clip is None:
        return loss
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (clipped - target).square())


def value_loss_gradient(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """Derivative of each ``value_loss`` with respect to its ``value``."""
    error = value - target
    if clip is None:
        return error
    change = value - old_value
    clipped = old_value + change.clamp(-clip, clip)
    return error * ((change.abs() <= clip) | (error.abs() >= (clipped - target).abs()))


def approximate_kl(log_prob: Tensor, behaviour_log_prob: Tensor) -> Tensor:
    """Each step's estimate of KL(behaviour, current), never negative (http://joschu.net/blog/kl-approx.html, k3)."""
    log_ratio = log_prob - behaviour_log_prob
    return torch.expm1(log_ratio) - log_ratio


def is_clipped(log_prob: Tensor, behaviour_log_prob: Tensor, clip: float) -> Tensor:
    """1 for each step whose probability ratio lies outside ``1 - clip .. 1 + clip``, else 0."""
    return (torch.expm1(log_prob - behaviour_log_prob).abs() > clip).float()
