"""Distributions against torch's own, their gradients against autograd, their draws against their probabilities."""

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from learner.networks.distributions import make_distribution, mask_logits
from shared.policy.noise import NoiseStream
from shared.policy.spaces import ActionSpec

SPECS = {
    "discrete": ActionSpec("discrete", "int64", (), (3,), (0,)),
    "multi_discrete": ActionSpec("multi_discrete", "int32", (2,), (3, 2), (1, 0)),
    "multi_binary": ActionSpec("multi_binary", "int8", (2, 2)),
    "box": ActionSpec("box", "float64", (2, 1), low=(-0.1, None), high=(0.3, 2.0)),
}
KINDS = list(SPECS)


def reference(kind: str, head: Tensor, log_std: Tensor | None) -> list[distributions.Distribution]:
    """Independent parts, one for each column of the flattened action."""
    if kind == "discrete":
        return [distributions.Categorical(logits=head)]
    if kind == "multi_discrete":
        return [distributions.Categorical(logits=head[:, :3]), distributions.Categorical(logits=head[:, 3:])]
    if kind == "multi_binary":
        return [distributions.Bernoulli(logits=column) for column in head.unbind(1)]
    assert log_std is not None
    return [distributions.Normal(head[:, i], log_std[i].exp()) for i in range(2)]


def draw(kind: str, rows: int, seed: int = 0) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A distribution, a head, and actions drawn from it."""
    distribution = make_distribution(SPECS[kind], -0.7)
    head = torch.randn(rows, distribution.head_size, generator=torch.Generator().manual_seed(seed))
    noise = torch.from_numpy(NoiseStream(SPECS[kind], rows, seed).at(0))
    with torch.no_grad():
        return distribution, head, distribution.sample(distribution.terms(head), noise)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probability_and_entropy_are_torchs(kind: str) -> None:
    distribution, head, action = draw(kind, 32)
    terms = distribution.terms(head)
    parts = reference(kind, head, getattr(distribution, "log_std", None))
    columns = action.reshape(32, -1).unbind(1)
    expected = sum(part.log_prob(column.float()) for part, column in zip(parts, columns, strict=True))
    torch.testing.assert_close(distribution.log_prob(terms, action), expected)
    torch.testing.assert_close(distribution.entropy(terms), sum(part.entropy() for part in parts))


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_autograds(kind: str, per_row: bool) -> None:
    distribution, head, action = draw(kind, 16)
    weights = torch.linspace(-1, 2, 16)
    entropy_gradient = torch.linspace(0.5, -0.2, 16) if per_row else 0.3
    head.requires_grad_()
    terms = distribution.terms(head)
    loss = (weights * distribution.log_prob(terms, action) + entropy_gradient * distribution.entropy(terms)).sum()
    loss.backward()
    expected_own = [parameter.grad.clone() for parameter in distribution.parameters()]
    with torch.no_grad():
        found = distribution.gradient(distribution.terms(head), action, weights, entropy_gradient)
    torch.testing.assert_close(found, head.grad)
    for parameter, expected in zip(distribution.parameters(), expected_own, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "multi_binary"])
def test_draws_follow_the_probabilities(kind: str) -> None:
    rows = 20_000
    distribution = make_distribution(SPECS[kind], 0.0)
    head = torch.linspace(-1, 1, distribution.head_size).expand(rows, -1)
    noise = torch.from_numpy(NoiseStream(SPECS[kind], rows, 3).at(0))
    columns = distribution.sample(distribution.terms(head), noise).reshape(rows, -1).unbind(1)
    for part, column in zip(reference(kind, head, None), columns, strict=True):
        probability = part.probs[0] if kind != "multi_binary" else torch.stack([1 - part.probs[0], part.probs[0]])
        frequency = torch.bincount(column.long(), minlength=len(probability)) / rows
        torch.testing.assert_close(frequency, probability, atol=0.012, rtol=0)


def test_a_box_is_drawn_around_its_mean() -> None:
    distribution = make_distribution(SPECS["box"], -0.7)
    mean, noise = torch.tensor([[1.0, -2.0]]), torch.tensor([[[1.0], [-3.0]]])
    with torch.no_grad():
        action = distribution.sample(mean, noise)
    np.testing.assert_allclose(action.flatten(), [1 + np.exp(-0.7), -2 - 3 * np.exp(-0.7)], rtol=1e-6)


def test_a_box_of_one_number_without_dimensions_has_actions() -> None:
    distribution = make_distribution(ActionSpec("box", "float32", (), low=(None,), high=(None,)), 0.0)
    mean, noise = torch.tensor([[1.0], [2.0]]), torch.tensor([0.5, -1.0])
    action = distribution.sample(mean, noise)
    torch.testing.assert_close(action, torch.tensor([1.5, 1.0]))
    expected = torch.distributions.Normal(mean[:, 0], 1.0).log_prob(action)
    torch.testing.assert_close(distribution.log_prob(mean, action), expected)
    assert distribution.env_action(action).shape == (2,)
    distribution.gradient(mean, action, torch.ones(2), 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_noise_is_the_most_likely_action(kind: str) -> None:
    distribution, head, other = draw(kind, 32)
    terms = distribution.terms(head)
    with torch.no_grad():
        likeliest = distribution.sample(terms, torch.zeros(32, *SPECS[kind].noise_shape))
        assert (distribution.log_prob(terms, likeliest) >= distribution.log_prob(terms, other)).all()


def test_environments_are_given_what_their_space_holds() -> None:
    box = make_distribution(SPECS["box"], 0.0).env_action(torch.tensor([[[-5.0], [5.0]], [[0.3], [-5.0]]]))
    assert box.dtype == torch.float64
    np.testing.assert_array_equal(box[..., 0], [[-0.1, 2.0], [np.float64(np.float32(0.3)).clip(None, 0.3), -5.0]])
    assert (box[:, 0] <= 0.3).all()
    multi = make_distribution(SPECS["multi_discrete"], 0.0).env_action(torch.tensor([[0, 1]]))
    assert multi.dtype == torch.int32
    assert multi.tolist() == [[1, 1]]


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete"])
def test_masked_actions_are_impossible_and_have_no_gradient(kind: str) -> None:
    distribution, head, _ = draw(kind, 64)
    mask = torch.rand(head.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[:, 0] = mask[:, -1] = True
    terms = distribution.terms(mask_logits(head, mask))
    noise = torch.from_numpy(NoiseStream(SPECS[kind], 64, 5).at(0))
    action = distribution.sample(terms, noise)
    chosen = action.reshape(64, -1) + torch.tensor([0, 3])[: action.reshape(64, -1).shape[1]]
    assert mask.gather(1, chosen).all()
    assert torch.isfinite(distribution.entropy(terms)).all()
    gradient = distribution.gradient(terms, action, torch.ones(64), 0.1)
    assert (gradient[~mask] == 0).all()
