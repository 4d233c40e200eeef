"""``from_torchrl``: actors act as in TorchRL, and unsupported modules are refused."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

pytest.importorskip("torchrl", reason='needs pip install "rl-hotswap[torchrl]"')

from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.modules import ProbabilisticActor, TanhNormal, TruncatedNormal

from learner.importers.agreement import quiet_inputs
from learner.importers.torchrl import from_torchrl
from scripts.conformance.torchrl_cases import (
    BOUNDS,
    BOX,
    DISCRETE,
    PARTS,
    VECTOR,
    TorchRLCase,
    actor_and_value,
    cases,
    gaussian,
    network,
)
from shared.errors import ConfigurationError, ExportError
from shared.policy.probe import make_inputs, run_policy


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def outputs(policy: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    found = run_policy(policy.eval(), policy.signature, inputs)
    return dict(zip(policy.signature.output_names, found, strict=True))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_actions_without_noise_are_those_of_torchrl(case: TorchRLCase) -> None:
    subject = case.subject(0)
    inputs = quiet_inputs(subject.policy, 64)
    found = outputs(subject.policy, inputs)
    observation, _, mask = subject.policy.arguments([torch.from_numpy(array) for array in inputs])
    is_dict = isinstance(observation, dict)
    arrays = {key: part.numpy() for key, part in observation.items()} if is_dict else observation.numpy()
    expected = subject.predictor()(arrays, None if mask is None else mask.numpy(), np.ones(64, np.bool_))
    np.testing.assert_allclose(found.get("env_action", found["action"]), expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected.round(4), axis=0)) > 1


def test_drawn_actions_have_torchrls_distribution() -> None:
    actor = gaussian(distribution_class=TanhNormal, distribution_kwargs=BOUNDS)
    policy = from_torchrl(actor, VECTOR, BOX)
    inputs = make_inputs(policy.signature, 64, seed=0)
    found = outputs(policy, inputs)
    distribution = actor.get_dist(TensorDict({"observation": torch.from_numpy(inputs[0])}, [64]))
    # TorchRL's density is that of the scaled action.
    scale = torch.log((BOUNDS["high"] - BOUNDS["low"]) / 2).sum()
    log_prob = distribution.log_prob(torch.from_numpy(found["env_action"])) + scale
    inside = (np.abs(found["action"]) < 0.99).all(1)  # TorchRL inverts tanh
    assert inside.sum() > 10
    np.testing.assert_allclose(found["log_prob"][inside], log_prob.detach().numpy()[inside], rtol=1e-3, atol=1e-3)


def test_a_value_is_part_of_the_policy() -> None:
    actor = actor_and_value()
    policy = from_torchrl(actor, VECTOR, DISCRETE)
    inputs = quiet_inputs(policy)
    with torch.no_grad():
        expected = actor(TensorDict({"observation": torch.from_numpy(inputs[0])}, [16]))["state_value"]
    np.testing.assert_allclose(outputs(policy, inputs)["value"], expected[:, 0].numpy(), rtol=1e-5, atol=1e-5)


def test_unsupported_modules_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="pass a TensorDictModule, such as a ProbabilisticActor; found Linear"):
        from_torchrl(nn.Linear(1, 1), VECTOR, DISCRETE)
    truncated = gaussian(distribution_class=TruncatedNormal, distribution_kwargs=BOUNDS)
    with pytest.raises(ConfigurationError, match=r"return the parameters from an nn\.Module .* found TruncatedNormal"):
        from_torchrl(truncated, VECTOR, BOX)
    with pytest.raises(ConfigurationError, match=r"give one module the output key 'action': none has it"):
        from_torchrl(TensorDictModule(network(4), ["observation"], ["logits"]), VECTOR, DISCRETE)
    with pytest.raises(ConfigurationError, match=r"expected \['observation'\], found Dict"):
        from_torchrl(actor_and_value(), PARTS, DISCRETE)
    other = ProbabilisticActor(
        TensorDictModule(network(4), ["observation"], ["logits"]),
        in_keys=["logits"],
        out_keys=["move"],
        distribution_class=torch.distributions.Categorical,
    )
    with pytest.raises(ConfigurationError, match="give the action the key 'action'"):
        from_torchrl(other, VECTOR, DISCRETE)


class Shifted(TensorDictModule):
    """Changes its own action after its network."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        data = super().forward(*args, **kwargs)
        if data.batch_size:
            data["action"] = data["action"] + 1
        return data


def test_a_policy_that_acts_differently_is_refused() -> None:
    actor = Shifted(network(2), ["observation"], ["action"])
    with pytest.raises(ExportError, match=r"the imported policy acts differently\. TorchRL chooses"):
        from_torchrl(actor, VECTOR, spaces.Box(-np.inf, np.inf, (2,)))
