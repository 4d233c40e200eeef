"""Operators whose usual ONNX form is wrong for large inputs, on the engines that run graphs."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from actor.acting import module_call
from learner.export.module_export import export_module
from learner.publishing.policy_publisher import publish_policy
from shared.engines.engine import EngineChoice

load_policy = partial(module_call.load_policy, sandbox=None)

MAGNITUDES = (0.0, 1e-6, 10.0, 31.0, 100.0, 1e4)


def wide(width: int) -> Tensor:
    signs = torch.tensor([[1.0], [-1.0]])
    return torch.cat([signs.expand(2, width) * magnitude for magnitude in MAGNITUDES])


class LogAddExp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, 0.5 * x + 1)


@pytest.mark.parametrize("module", [nn.LogSigmoid(), LogAddExp()], ids=lambda module: type(module).__name__)
def test_graphs_equal_the_module_for_large_inputs(module: nn.Module, tmp_path: Path) -> None:
    export_module(module, (torch.randn(3, 4),), tmp_path / "m")
    x = wide(4)
    for engine in ("onnx", "llvm"):
        torch.testing.assert_close(load_policy(tmp_path / "m", engine, sandbox=None)(x), module(x))


@pytest.mark.parametrize("engine", ["onnx", "llvm"])
def test_log_probabilities_of_binary_actions_are_finite_for_large_logits(engine: EngineChoice, tmp_path: Path) -> None:
    same = nn.Linear(4, 4, bias=False)
    nn.init.eye_(same.weight)
    publish_policy(same, spaces.Box(-np.inf, np.inf, (4,)), spaces.MultiBinary(4), tmp_path)
    x = wide(4)
    noise = -2 * x  # draws the unlikely action
    action, log_prob = load_policy(tmp_path / "v000000", engine, sandbox=None)([x, noise])
    expected = functional.logsigmoid(torch.where(action == 1, x, -x)).sum(-1)
    torch.testing.assert_close(log_prob, expected)
