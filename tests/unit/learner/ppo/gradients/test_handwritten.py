"""The forward pass by LLVM equals that of the layers, for any number of rows and with the current weights."""

import itertools

import pytest
import torch

from learner.ppo.gradients.handwritten import LlvmForward, llvm_forward


def _layers(sizes: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(after, before, generator=generator) / before**0.5 for before, after in itertools.pairwise(sizes)
    ]
    return weights, [torch.randn(size, generator=generator) for size in sizes[1:]]


def _one_by_one(x: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> list[torch.Tensor]:
    given = []
    for weight, bias in zip(weights, biases, strict=True):
        x = torch.addmm(bias, x, weight.t())
        if weight is not weights[-1]:
            x = x.tanh()
        given.append(x)
    return given


@pytest.mark.parametrize("keep_hidden", [True, False])
def test_gives_what_the_layers_give_for_any_number_of_rows(keep_hidden: bool) -> None:
    weights, biases = _layers([5, 40, 17, 3])
    forward = LlvmForward(weights, biases, "tanh", keep_hidden=keep_hidden)
    for rows in (7, 33, 0, 1, 16, 1500, 33):  # more, fewer and as many as before
        x = torch.randn(rows, 5)
        expected = _one_by_one(x, weights, biases)
        for found, wanted in zip(forward(x), expected if keep_hidden else expected[-1:], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_takes_the_weights_as_they_are_at_the_call() -> None:
    weights, biases = _layers([4, 8, 2])
    forward = LlvmForward(weights, biases, "tanh", keep_hidden=False)
    x = torch.randn(20, 4)
    before = forward(x)[0].clone()
    weights[0].mul_(0.5)
    biases[1].add_(1.0)
    (after,) = forward(x)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, _one_by_one(x, weights, biases)[-1], rtol=1e-5, atol=1e-6)


def test_large_layers_are_left_to_torch() -> None:
    assert llvm_forward(*_layers([4, 600, 600, 2]), "tanh", keep_hidden=True) is None
