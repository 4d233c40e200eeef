"""The flat optimizer against torch's."""

import copy

import torch
from torch import nn

from learner.ppo.gradients.backprop import FlatAdam, FlatParameters


def test_steps_equal_torchs_adam_and_clipping() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    flat = FlatParameters(ours)
    adam = FlatAdam(flat)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-5)
    for _ in range(5):
        x = torch.randn(8, 3)
        flat.gradient.zero_()
        reference.zero_grad()
        for network in (ours, theirs):
            (network(x).square().sum() * 10).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert abs(flat.clip_gradient(0.5) - norm) < 1e-3
        adam.step(0.01)
        reference.step()
        for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_parameters_and_buffer_are_the_same_memory() -> None:
    network = nn.Linear(2, 2)
    flat = FlatParameters(network)
    flat.values.fill_(3.0)
    assert (network.weight == 3).all()
    network.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    assert flat.values.tolist() == [1, 1, 1, 1, 0, 0]
