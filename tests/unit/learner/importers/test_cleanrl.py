"""``from_cleanrl``: agents of every form of script act as they do themselves, and others are refused."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from learner.importers.agreement import quiet_inputs
from learner.importers.cleanrl import from_cleanrl, load_agent
from scripts.conformance.agreement import sample_observations, stir
from scripts.conformance.cleanrl_cases import (
    BOX,
    DISCRETE,
    VECTOR,
    Agent,
    AtariAgent,
    CleanRLCase,
    ContinuousAgent,
    LstmAgent,
    SacActor,
    cases,
)
from shared.errors import ConfigurationError, ExportError, WeightsError
from shared.policy.probe import make_inputs, run_policy
from tests.support.paths import REPOSITORY

FILE = str(REPOSITORY / "scripts" / "conformance" / "cleanrl_cases.py")


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def made(agent: Any, action: spaces.Space[Any], observation: spaces.Space[Any] = VECTOR) -> Any:
    found = agent(SimpleNamespace(single_observation_space=observation, single_action_space=action))
    stir(found, 0)
    return found


def outputs(policy: Any, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    found = run_policy(policy.eval(), policy.signature, inputs)
    return dict(zip(policy.signature.output_names, found, strict=True))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_actions_without_noise_are_those_of_the_agent(case: CleanRLCase) -> None:
    subject = case.subject(0)
    inputs = quiet_inputs(subject.policy, 64)
    inputs[0] = sample_observations(case.observation, 64, np.random.default_rng(0))
    found = outputs(subject.policy, inputs)
    expected = subject.predictor()(inputs[0], None, np.ones(64, np.bool_))
    np.testing.assert_allclose(found.get("env_action", found["action"]), expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(expected.round(4), axis=0)) > 1


@pytest.mark.parametrize(("agent", "action"), [(Agent, DISCRETE), (ContinuousAgent, BOX)])
def test_drawn_actions_have_the_agents_log_probability_and_value(agent: Any, action: spaces.Space[Any]) -> None:
    own = made(agent, action)
    policy = from_cleanrl(own, VECTOR, action)
    inputs = make_inputs(policy.signature, 64, seed=0)
    found = outputs(policy, inputs)
    with torch.no_grad():
        results = own.get_action_and_value(torch.from_numpy(inputs[0]), torch.from_numpy(found["action"]))
    np.testing.assert_allclose(found["log_prob"], results[1].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["value"], results[3][:, 0].numpy(), rtol=1e-5, atol=1e-5)


def test_sac_is_squashed_to_its_scale_and_bias() -> None:
    own = made(SacActor, BOX)
    policy = from_cleanrl(own, VECTOR, BOX)
    inputs = make_inputs(policy.signature, 64, seed=0)
    found = outputs(policy, inputs)
    with torch.no_grad():
        mean, log_std = own(torch.from_numpy(inputs[0]))
        drawn = torch.tanh(mean + log_std.exp() * torch.from_numpy(inputs[1])) * own.action_scale + own.action_bias
    np.testing.assert_allclose(found["env_action"], drawn.numpy(), rtol=1e-5, atol=1e-5)


def test_the_state_of_an_lstm_is_that_of_the_agent() -> None:
    image = spaces.Box(0, 255, (1, 40, 36), np.uint8)
    own = made(LstmAgent, DISCRETE, image)
    policy = from_cleanrl(own, image, DISCRETE)
    inputs = make_inputs(policy.signature, 5, seed=0)
    assert [spec.name for spec in policy.signature.state] == ["state.h", "state.c"]
    found = outputs(policy, inputs)
    state = tuple(torch.from_numpy(array).transpose(0, 1).contiguous() for array in inputs[1:3])
    with torch.no_grad():
        after = own.get_action_and_value(torch.Tensor(inputs[0]), state, torch.zeros(5))[4]
    for name, expected in zip(("state.h", "state.c"), after, strict=True):
        np.testing.assert_allclose(found[name], expected.transpose(0, 1).numpy(), rtol=1e-5, atol=1e-5)


def test_several_categoricals_are_one_multi_discrete_action() -> None:
    class Several(Agent):
        def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
            parts = [torch.distributions.Categorical(logits=part) for part in self.actor(x).split([3, 2], 1)]
            if action is None:
                action = torch.stack([part.sample() for part in parts])
            log_prob = torch.stack([part.log_prob(a) for a, part in zip(action, parts, strict=True)])
            return action.T, log_prob.sum(0), None, self.critic(x)

    own = Several(SimpleNamespace(single_observation_space=VECTOR, single_action_space=spaces.Discrete(5)))
    policy = from_cleanrl(own, VECTOR, spaces.MultiDiscrete([3, 2]))
    inputs = quiet_inputs(policy)
    with torch.no_grad():
        logits = own.actor(torch.from_numpy(inputs[0]))
    expected = torch.stack([part.argmax(1) for part in logits.split([3, 2], 1)], 1)
    assert np.array_equal(outputs(policy, inputs)["action"], expected.numpy())


def test_the_agent_and_its_script_stay_as_they_are() -> None:
    own = made(AtariAgent, DISCRETE, spaces.Box(0, 255, (1, 40, 36), np.uint8)).train()
    random_state = torch.random.get_rng_state()
    from_cleanrl(own, spaces.Box(0, 255, (1, 40, 36), np.uint8), DISCRETE)
    assert own.training
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert AtariAgent.get_action_and_value.__globals__["Categorical"] is torch.distributions.Categorical


class Lying(Agent):
    """Returns other log-probabilities than those of its Categorical."""

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        probs = torch.distributions.Categorical(logits=self.actor(x))
        action = probs.sample()
        return action, probs.log_prob(action) - 1, probs.entropy(), self.critic(x)


class Hiding(Agent):
    """Constructs its distribution elsewhere."""

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        return super().get_action_and_value(x, action)


def test_other_agents_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of the methods get_action_and_value, get_action, forward"):
        from_cleanrl(nn.Module(), VECTOR, DISCRETE)
    with pytest.raises(ConfigurationError, match="agents of CleanRL read one Box, found Discrete"):
        from_cleanrl(made(Agent, DISCRETE), spaces.Discrete(3), DISCRETE)
    with pytest.raises(ExportError, match="has other log-probabilities"):
        from_cleanrl(made(Lying, DISCRETE), VECTOR, DISCRETE)
    with pytest.raises(ExportError, match=r"construct Categorical or Normal .* that of Hiding constructs none"):
        from_cleanrl(made(Hiding, DISCRETE), VECTOR, DISCRETE)


@pytest.mark.parametrize("form", ["alone", "first", "model_weights"])
def test_weights_are_read_in_each_form_of_the_scripts(form: str, tmp_path: Path) -> None:
    own = made(Agent, DISCRETE).state_dict()
    saved: dict[str, Any] = {"alone": own, "first": (own, {}), "model_weights": {"model_weights": own, "args": {}}}
    torch.save(saved[form], tmp_path / "agent.pt")
    found = load_agent(f"{FILE}:Agent", tmp_path / "agent.pt", (VECTOR, DISCRETE), {})
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in own.items())


def test_arguments_reach_the_class() -> None:
    found: Any = load_agent(f"{FILE}:C51Network", None, (VECTOR, DISCRETE), {"n_atoms": 7})
    assert found.n_atoms == 7


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.py:Agent", "there is no file nowhere.py"),
        (f"{FILE}:Nobody", "has no class 'Nobody'"),
        (f"{FILE}:CleanRLCase", "has no class 'CleanRLCase'"),
        (f"{FILE}:BoundedActor", "cannot be constructed: AttributeError"),
        ("broken.py:Agent", "install what the script imports, or add it to PYTHONPATH: .* No module named"),
    ],
)
def test_other_sources_are_refused(source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(ConfigurationError, match=reason):
        load_agent(source, None, (VECTOR, DISCRETE), {})


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save(made(Agent, spaces.Discrete(9)).state_dict(), tmp_path / "nine.pt")
    torch.save([1, 2], tmp_path / "numbers.pt")
    torch.save(made(Agent, DISCRETE), tmp_path / "whole.pt")
    for name, reason in (("nine", "does not fit"), ("numbers", "found a int"), ("whole", "save the state dict")):
        with pytest.raises(WeightsError, match=reason):
            load_agent(f"{FILE}:Agent", tmp_path / f"{name}.pt", (VECTOR, DISCRETE), {})
