"""``--compile`` either works or logs one line with the reason."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from learner.ppo.gradients.torch_compile_function import torch_compile_function
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from shared.policy.spaces import action_spec, observation_leaves
from tests.support.acted_rollouts import act_rollout
from tests.support.captured_logs import CapturedLogs

_CONFIG = LearnerConfig(hidden_sizes=(8,), epochs=1, minibatch_size=7)


def learner_of(observation: spaces.Space[object], config: LearnerConfig) -> Learner:
    return Learner(observation_leaves(observation), action_spec(spaces.Discrete(3)), config)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("mlp", "the gradients of this network are written out"),
        ("lstm", "sequences are cut where episodes end"),
        ("gru", "sequences are cut where episodes end"),
    ],
)
def test_networks_that_are_not_compiled_log_the_reason_and_train(
    captured_logs: CapturedLogs, network: str, reason: str
) -> None:
    space = spaces.Box(-1, 1, (3,), np.float32)
    learner = learner_of(space, replace(_CONFIG, network=network, compile=True))  # type: ignore[arg-type]
    (line,) = captured_logs.messages("INFO")
    assert line.startswith(f"the update is not compiled: {reason}")
    assert learner.update([act_rollout(learner.policy)]).gradient_steps > 0


@pytest.mark.filterwarnings("ignore")
def test_functions_that_do_not_compile_are_used_uncompiled(captured_logs: CapturedLogs) -> None:
    weight = torch.ones(2, requires_grad=True)

    def refuses_to_be_compiled(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.compiler.is_compiling():
            raise ValueError("no compiler here")
        return inputs[0] * weight, inputs[0].sum(-1)

    assert torch_compile_function(refuses_to_be_compiled, [weight], [torch.ones(4, 2)]) is refuses_to_be_compiled
    (line,) = captured_logs.messages("INFO")
    assert line.startswith("the update is not compiled: ")
    assert "\n" not in line


@pytest.mark.filterwarnings("ignore")
def test_functions_that_compile_to_something_else_are_used_uncompiled(
    captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.ones(2, requires_grad=True)

    def function(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[0] * weight, inputs[0].sum(-1)

    def wrong(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[0] * weight * 1.01, inputs[0].sum(-1)

    monkeypatch.setattr(torch, "compile", lambda _function, *, fullgraph: wrong)
    assert torch_compile_function(function, [weight], [torch.ones(4, 2)]) is function
    assert "does not give the same" in captured_logs.messages("INFO")[0]
