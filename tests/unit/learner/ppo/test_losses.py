"""Closed-form gradients against autograd, and the losses against PPO's definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ppo import losses


def columns(seed: int, n: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(3)]


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), clip=st.floats(0.01, 0.5))
def test_policy_gradient_is_autograds(seed: int, clip: float) -> None:
    log_prob, behaviour, advantage = columns(seed)
    behaviour = log_prob + 0.3 * behaviour
    log_prob.requires_grad_()
    losses.policy_loss(log_prob, behaviour, advantage, clip).sum().backward()
    found = losses.policy_loss_gradient(log_prob.detach(), behaviour, advantage, clip)
    torch.testing.assert_close(found, log_prob.grad)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_value_gradient_is_autograds(clip: float | None) -> None:
    value, old_value, target = columns(0)
    value.requires_grad_()
    losses.value_loss(value, old_value, target, clip).sum().backward()
    found = losses.value_loss_gradient(value.detach(), old_value, target, clip)
    torch.testing.assert_close(found, value.grad)


def test_a_step_that_went_far_enough_is_not_pushed_further() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    advantage = torch.tensor([1.0, -1.0, -1.0, 1.0])
    zero = torch.zeros(4)
    gradient = losses.policy_loss_gradient(ratio.log(), zero, advantage, 0.2)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 1.5, -0.5]))
    torch.testing.assert_close(losses.is_clipped(ratio.log(), zero, 0.2), torch.ones(4))


def test_divergence_is_zero_for_the_same_policy_and_positive_otherwise() -> None:
    log_prob, other, _ = columns(1)
    assert (losses.approximate_kl(log_prob, log_prob) == 0).all()
    assert (losses.approximate_kl(log_prob, other) > 0).all()
