"""Passes written out against autograd's."""

import pytest
import torch

from learner.networks.network_config import NetworkConfig
from learner.networks.networks import LstmCell, RecurrentCore, SeparateCore, SharedCore
from learner.ppo.gradients import llvm_forward
from learner.ppo.gradients.backprop import AutogradBackprop, SeparateCoreBackprop, SharedCoreBackprop
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.lstm_backprop import LstmBackprop
from shared.engines.row_compiler import llvm_program


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "layer by layer"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden_sizes", [(), (16,), (16, 8)])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_equal_autograds(
    shared: bool, hidden_sizes: tuple[int, ...], activation: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(llvm_program, "_MOST_IN_MATRIX", 0)
        llvm_forward._compile.cache_clear()
    config = NetworkConfig(hidden_sizes=hidden_sizes, activation=activation)
    generator = torch.Generator().manual_seed(0)
    core = (SharedCore if shared else SeparateCore)(5, 3, config, generator)
    flat = FlatParameters(core)
    features = torch.randn(32, 5, generator=generator)
    gradients = torch.randn(32, 3, generator=generator), torch.randn(32, generator=generator)

    by_autograd = AutogradBackprop(lambda inputs: core(inputs[0], [])[:2], flat)
    expected_outputs = by_autograd.forward([features])
    by_autograd.backward(*gradients)
    expected = flat.gradient.clone()

    flat.gradient.fill_(torch.nan)  # whatever was there is overwritten
    written_out = SharedCoreBackprop(core) if isinstance(core, SharedCore) else SeparateCoreBackprop(core)
    with torch.no_grad():
        outputs = written_out.forward([features])
        written_out.backward(*gradients)
        evaluated = written_out.evaluate([features])
    for found, again, wanted in zip(outputs, evaluated, expected_outputs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(again, found, rtol=0.0, atol=0.0)
    torch.testing.assert_close(flat.gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden_sizes", [(), (7,)])
def test_gradients_through_time_equal_autograds(hidden_sizes: tuple[int, ...]) -> None:
    config = NetworkConfig(kind="lstm", hidden_sizes=hidden_sizes, recurrent_size=6)
    generator = torch.Generator().manual_seed(0)
    core = RecurrentCore(5, 3, config, generator)
    assert isinstance(core.cell, LstmCell)
    flat = FlatParameters(core)
    length, width = 9, 4
    h, c = torch.randn(2, width, 6, generator=generator)
    keeps = (torch.rand(length, width, 1, generator=generator) > 0.2).float()
    features = torch.randn(length, width, 5, generator=generator)
    gradients = torch.randn(length * width, 3, generator=generator), torch.randn(length * width, generator=generator)

    def step_by_step(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        state, outputs = inputs[:2], []
        for t in range(length):
            head, value, state = core(inputs[3][t], [leaf * inputs[2][t] for leaf in state])
            outputs.append((head, value))
        return torch.cat([head for head, _ in outputs]), torch.cat([value for _, value in outputs])

    by_autograd = AutogradBackprop(step_by_step, flat)
    expected_outputs = by_autograd.forward([h, c, keeps, features])
    by_autograd.backward(*gradients)
    expected = flat.gradient.clone()

    flat.gradient.fill_(torch.nan)
    written_out = LstmBackprop(core, core.cell)
    with torch.no_grad():
        outputs = written_out.forward([h, c, keeps, features])
        written_out.backward(*gradients)
    for found, wanted in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flat.gradient, expected, rtol=1e-4, atol=1e-5)
