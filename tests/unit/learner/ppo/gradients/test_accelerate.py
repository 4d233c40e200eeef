"""Every accelerator gives the outputs and gradients of the reference, autograd, within rounding."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import Activation, NetworkConfig
from learner.ppo.gradients import handwritten
from learner.ppo.gradients.accelerate import accelerate, torch_compile_function
from learner.ppo.gradients.backprop import AutogradBackprop, Backprop, FlatParameters, RowReference, SequenceReference
from learner.ppo.gradients.handwritten import LstmBackprop, SeparateCoreBackprop, SharedCoreBackprop
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from shared.engines.row_compiler import llvm_program
from shared.policy.spaces import action_spec, observation_leaves
from tests.support.acted_rollouts import act_rollout
from tests.support.captured_logs import CapturedLogs

_VECTOR = spaces.Box(-1, 1, (5,), np.float32)
_IMAGE = spaces.Box(0, 255, (8, 8, 1), np.uint8)
_HEAD_SIZE = 3


def _policy(config: NetworkConfig, observation: spaces.Space[object] = _VECTOR) -> tuple[ActingPolicy, FlatParameters]:
    generator = torch.Generator().manual_seed(0)
    policy = ActingPolicy(
        observation_leaves(observation), action_spec(spaces.Discrete(_HEAD_SIZE)), config, generator=generator
    )
    return policy, FlatParameters(policy)


def _assert_equal_passes(found: Backprop, reference: Backprop, parameters: FlatParameters, inputs: list[Tensor]) -> int:
    """Compare one forward and backward pass; return the number of rows."""
    expected_head, expected_value = reference.forward(inputs)
    rows = len(expected_value)
    assert expected_head.shape == (rows, _HEAD_SIZE)
    gradients = torch.randn(rows, _HEAD_SIZE), torch.randn(rows)
    reference.backward(*gradients)
    expected = parameters.gradient.clone()

    parameters.gradient.fill_(torch.nan)  # previous gradients are overwritten
    with torch.no_grad():
        head, value = found.forward(inputs)
        torch.testing.assert_close(head, expected_head, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-5)
        found.backward(*gradients)
    torch.testing.assert_close(parameters.gradient, expected, rtol=1e-4, atol=2e-5)
    return rows


@pytest.mark.parametrize("compiled", [True, False], ids=["llvm", "layer by layer"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden_sizes", [(), (16,), (16, 8)])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_rows(
    shared: bool, hidden_sizes: tuple[int, ...], activation: Activation, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(llvm_program, "_MOST_IN_MATRIX", 0)
        handwritten._compile.cache_clear()
    policy, parameters = _policy(NetworkConfig(hidden_sizes=hidden_sizes, activation=activation, shared_trunk=shared))
    reference = RowReference(policy)
    found = accelerate(reference, parameters)
    assert type(found) is (SharedCoreBackprop if shared else SeparateCoreBackprop)
    for rows in (32, 1, 33):
        inputs = reference.encode_once([torch.randn(rows, 5)])
        _assert_equal_passes(found, AutogradBackprop(reference.run, parameters), parameters, inputs)
        with torch.no_grad():
            for again, forward in zip(found.evaluate(inputs), found.forward(inputs), strict=True):
                torch.testing.assert_close(again, forward, rtol=0.0, atol=0.0)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_rows_by_torch_compile(captured_logs: CapturedLogs) -> None:
    policy, parameters = _policy(NetworkConfig(hidden_sizes=(8,)), _IMAGE)
    reference = RowReference(policy)
    found = accelerate(reference, parameters, torch_compile=True)
    assert captured_logs.messages("INFO") == ["the update is compiled"]
    for rows in (7, 1, 20):
        inputs = reference.encode_once([torch.randint(0, 256, (rows, 8, 8, 1), dtype=torch.uint8)])
        _assert_equal_passes(found, AutogradBackprop(reference.run, parameters), parameters, inputs)


def _sequences(length: int, width: int, n_states: int) -> list[Tensor]:
    state = [torch.randn(width, 6) for _ in range(n_states)]
    keeps = (torch.rand(length, width, 1) > 0.2).float()
    return [*state, keeps, torch.randn(length, width, 5)]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (16, 8)])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_sequences(kind: str, hidden_sizes: tuple[int, ...], activation: Activation) -> None:
    config = NetworkConfig(kind, hidden_sizes, 6, activation)  # type: ignore[arg-type]
    policy, parameters = _policy(config)
    reference = SequenceReference(policy)
    found = accelerate(reference, parameters)
    assert type(found) is (LstmBackprop if kind == "lstm" else AutogradBackprop)

    def step_by_step(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        *state, keeps, features = inputs
        outputs = []
        for t in range(len(features)):
            head, value, state = policy.core(features[t], [leaf * keeps[t] for leaf in state])
            outputs.append((head, value))
        return torch.cat([head for head, _ in outputs]), torch.cat([value for _, value in outputs])

    for length, width in ((9, 4), (1, 1), (5, 16)):
        inputs = _sequences(length, width, 2 if kind == "lstm" else 1)
        for function in (reference.run, step_by_step):
            expected = AutogradBackprop(function, parameters)
            assert _assert_equal_passes(found, expected, parameters, inputs) == length * width


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_networks_with_a_learned_encoder_are_left_to_autograd(kind: str) -> None:
    policy, parameters = _policy(NetworkConfig(kind, (8,)), _IMAGE)  # type: ignore[arg-type]
    reference = RowReference(policy) if kind == "mlp" else SequenceReference(policy)
    assert type(accelerate(reference, parameters)) is AutogradBackprop


_CONFIG = LearnerConfig(hidden_sizes=(8,), epochs=1, minibatch_size=7)


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
    config = replace(_CONFIG, network=network, compile=True)  # type: ignore[arg-type]
    learner = Learner(observation_leaves(_VECTOR), action_spec(spaces.Discrete(3)), config)
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


def test_functions_that_compile_to_something_else_are_used_uncompiled(
    captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.ones(2, requires_grad=True)

    def function(inputs: list[torch.Tensor], error: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[0] * weight * (1 + error), inputs[0].sum(-1)

    monkeypatch.setattr(torch, "compile", lambda _function, *, fullgraph: partial(function, error=0.01))
    assert torch_compile_function(function, [weight], [torch.ones(4, 2)]) is function
    assert "does not give the same" in captured_logs.messages("INFO")[0]
