"""``SpacesPolicy``: Q-values, and Box actions that are scaled from [-1, 1]."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from learner.export.spaces_policy import SpacesPolicy
from learner.networks.action_scaling import Scaling
from shared.errors import ConfigurationError, ExportError
from shared.policy.probe import make_inputs, run_policy

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)


class Named(nn.Module):
    """Returns the results of one linear layer by ``names``, ``size`` numbers each."""

    def __init__(self, names: tuple[str, ...], size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, len(names) * size)
        values = torch.randn(self.layer.weight.shape, generator=torch.Generator().manual_seed(0))
        self.layer.weight.data.copy_(values)
        self.layer.bias.data.zero_()
        self.names = names

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.layer(observation).chunk(len(self.names), -1), strict=True))


def outputs(policy: SpacesPolicy, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(policy.signature.output_names, run_policy(policy, policy.signature, inputs), strict=True))


def test_the_action_of_the_highest_q_value_is_chosen() -> None:
    module = Named(("q_values",), 4)
    policy = SpacesPolicy(module, VECTOR, spaces.Discrete(4, start=2))
    inputs = make_inputs(policy.signature, 20, seed=0)
    assert policy.signature.input_names == ("observation",)
    with torch.no_grad():
        values = module.layer(torch.from_numpy(inputs[0]))
        best = values.sort(descending=True).values
        lead = policy.choice_lead([torch.from_numpy(inputs[0])])
    found = outputs(policy, inputs)
    assert np.array_equal(found["action"], values.argmax(-1).numpy())
    assert np.array_equal(found["env_action"], found["action"] + 2)
    torch.testing.assert_close(lead, (best[:, 0] - best[:, 1]) / best[:, 0].abs().clamp(min=1))


def test_q_values_of_other_spaces_are_refused() -> None:
    with pytest.raises(ExportError, match="return q_values for a Discrete action space only, found multi_discrete"):
        SpacesPolicy(Named(("q_values",), 4), VECTOR, spaces.MultiDiscrete([2, 2]))
    with pytest.raises(ExportError, match="return 3 q_values for each row"):
        SpacesPolicy(Named(("q_values",), 4), VECTOR, spaces.Discrete(3))


@pytest.mark.parametrize("squashes_mean", [True, False])
def test_a_squashed_sample_is_scaled_to_the_bounds(squashes_mean: bool) -> None:
    module = Named(("mean", "log_std"), 2)
    policy = SpacesPolicy(module, VECTOR, BOX, scaling=Scaling(squashes=True, squashes_mean=squashes_mean))
    inputs = make_inputs(policy.signature, 40, seed=0)
    inputs[1][:20] = 0
    observation, noise = (torch.from_numpy(array) for array in inputs)
    with torch.no_grad():
        mean, log_std = module.layer(observation).chunk(2, -1)
    mean, log_std = mean.double(), log_std.double()  # 1 - tanh(x)**2 loses most digits of a float32
    sample = mean + log_std.exp() * noise
    action = torch.tanh(sample)
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(sample) - torch.log(1 - action**2 + 1e-6)
    if not squashes_mean:
        action[:20] = mean[:20]
    scaled = torch.from_numpy(BOX.low) + (action.clamp(-1, 1) + 1) / 2 * torch.from_numpy(BOX.high - BOX.low)
    found = outputs(policy, inputs)
    for name, expected in {"action": action, "env_action": scaled, "log_prob": log_prob.sum(1)}.items():
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_action_between_minus_one_and_one_is_scaled_and_clipped() -> None:
    module = Named(("mean",), 2)
    policy = SpacesPolicy(module, VECTOR, BOX, scaling=Scaling(squashes=False))
    inputs: list[Any] = [np.array([[9, 9, 9], [0, 0, 0]], np.float32)]
    with torch.no_grad():
        module.layer.weight.fill_(1.0)
        module.layer.bias.zero_()
    assert np.array_equal(outputs(policy, inputs)["env_action"], [[1, 5], [-0.5, 2.5]])


def test_scaling_needs_bounds() -> None:
    with pytest.raises(ConfigurationError, match="give the action space bounds on every side"):
        SpacesPolicy(Named(("mean",), 3), VECTOR, spaces.Box(-np.inf, 1, (3,)), scaling=Scaling(squashes=True))
