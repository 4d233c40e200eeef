"""``--compile``: the same training within rounding, or a line that says why it is not compiled."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from loguru import logger

from learner.ppo.gradients.torch_compile_function import compile_function
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from shared.policy.spaces import action_spec, observation_leaves
from tests.support.acted_rollouts import act_rollout

_IMAGE = spaces.Box(0, 255, (8, 8, 1), np.uint8)
_CONFIG = LearnerConfig(hidden_sizes=(8,), epochs=1, minibatch_size=7)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    records: list[str] = []
    sink = logger.add(lambda message: records.append(str(message).strip()), format="{message}")
    yield records
    logger.remove(sink)


def learner_of(observation: spaces.Space[object], config: LearnerConfig) -> Learner:
    return Learner(observation_leaves(observation), action_spec(spaces.Discrete(3)), config)


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_update_gives_the_same_weights_within_rounding(lines: list[str]) -> None:
    compiled, eager = learner_of(_IMAGE, replace(_CONFIG, compile=True)), learner_of(_IMAGE, _CONFIG)
    assert lines == ["the update is compiled"]
    for seed in range(3):
        rollout = act_rollout(eager.policy, seed=seed)
        for learner in (compiled, eager):
            learner.update([rollout])
    expected = eager.policy.state_dict()
    for name, tensor in compiled.policy.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("mlp", "the gradients of this network are written out"),
        ("lstm", "sequences are cut where episodes end"),
        ("gru", "sequences are cut where episodes end"),
    ],
)
def test_what_is_not_compiled_says_why_and_trains(lines: list[str], network: str, reason: str) -> None:
    space = spaces.Box(-1, 1, (3,), np.float32)
    learner = learner_of(space, replace(_CONFIG, network=network, compile=True))  # type: ignore[arg-type]
    (line,) = lines
    assert line.startswith(f"the update is not compiled: {reason}")
    assert learner.update([act_rollout(learner.policy)]).gradient_steps > 0


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_compiled_is_used_as_it_is(lines: list[str]) -> None:
    weight = torch.ones(2, requires_grad=True)

    def refuses_to_be_compiled(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.compiler.is_compiling():
            raise ValueError("no compiler here")
        return inputs[0] * weight, inputs[0].sum(-1)

    assert compile_function(refuses_to_be_compiled, [weight], [torch.ones(4, 2)]) is refuses_to_be_compiled
    (line,) = lines
    assert line.startswith("the update is not compiled: ")
    assert "\n" not in line


@pytest.mark.filterwarnings("ignore")
def test_what_compiles_to_something_else_is_used_as_it_is(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(2, requires_grad=True)

    def function(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[0] * weight, inputs[0].sum(-1)

    def wrong(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[0] * weight * 1.01, inputs[0].sum(-1)

    monkeypatch.setattr(torch, "compile", lambda _function, *, fullgraph: wrong)
    assert compile_function(function, [weight], [torch.ones(4, 2)]) is function
    assert "does not give the same" in lines[0]
