"""Programs that are right for small inputs or small batches only are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from actor.agent import Agent
from actor.agent_options import AgentOptions
from learner.export.inputs.input_variations import MAGNITUDES, widened
from learner.export.module_export import export_module
from learner.export.policy_export import policy_checks
from learner.export.program_checks import affordable_sizes, write_weights
from learner.export.spaces_policy import SpacesPolicy
from learner.publishing.policy_publisher import publish_policy
from shared.engines.eager import EagerEngine
from shared.errors import ExportError
from shared.store.policy_store import LocalPolicyStore

VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)


class Doubles(nn.Module):
    """Multiplies numbers by two where one of them is above ``above``."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.above = above

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if bool(x.max() > self.above):
            y = 2 * y
        return y


class Flips(nn.Module):
    """Changes its sign for batches of ``rows`` and more."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if x.shape[0] >= self.rows:
            y = -y
        return y


class LogOfSigmoid(nn.Module):
    """Its sigmoid is 0 in ONNX Runtime where it is small."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.sigmoid(x)).clamp(min=-1000)


@pytest.mark.parametrize("above", [7.0, 70.0, 7e3])
def test_a_program_that_is_right_for_small_inputs_only_is_refused(above: float) -> None:
    actions = spaces.Box(-np.inf, np.inf, (3,))
    policy, program = (SpacesPolicy(Doubles(limit), VECTOR, actions).eval() for limit in (above, np.inf))
    program.load_state_dict(policy.state_dict())
    checks = policy_checks(policy, policy.signature)
    assert {case.magnitude for case in checks.cases} == {None, *MAGNITUDES}
    with pytest.raises(ExportError, match="right for small inputs only: for numbers up to"):
        checks.differences(EagerEngine(program, "").run, lambda weights: write_weights(program, weights))
    checks.differences(EagerEngine(policy, "").run, lambda weights: write_weights(policy, weights))


def test_a_graph_that_is_right_for_small_inputs_only_is_refused(tmp_path: Path) -> None:
    report = export_module(LogOfSigmoid(), (torch.rand(3, 4),), tmp_path / "m")
    assert report.taken == ("script",)
    assert "right for small inputs only: for numbers up to 100 " in (report.methods[-1].error or "")


@pytest.mark.parametrize("rows", [20, 100, 1000])
def test_a_trace_that_is_right_for_small_batches_only_is_refused(rows: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the batch size was baked in"):
        export_module(Flips(rows), (torch.randn(3, 4),), tmp_path / "m", how="trace")


def test_a_policy_that_treats_large_batches_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="compute each row from that row alone: in a batch of 1000 rows"):
        publish_policy(Flips(500), VECTOR, spaces.Discrete(3), tmp_path)


def test_an_actor_verifies_batches_that_are_larger_than_those_tried(tmp_path: Path) -> None:
    manifest = publish_policy(Flips(2000), VECTOR, spaces.Discrete(3), tmp_path)
    tried = [report.by_batch_size for report in manifest.export if report.taken]
    assert all(isinstance(sizes, dict) and max(map(int, sizes)) == 1000 for sizes in tried)
    options = AgentOptions(num_envs=2048, engine="torchscript", synchronous=True, sandbox=None)
    agent = Agent(LocalPolicyStore(tmp_path), options)
    try:
        agent.reset()
        assert agent.policy.engine_name == "llvm", "the program on TorchScript flips the sign of 2,048 rows"
    finally:
        agent.close()


def test_calls_of_large_batches_are_affordable() -> None:
    assert affordable_sizes((33, 129, 1000), 4, 5_000) == [33, 129, 1000]
    assert affordable_sizes((33, 129, 1000), 84 * 84 * 4, 10**6) == [33, 129]
    assert affordable_sizes((33, 129, 1000), 4, 10**8) == []


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_wide_inputs_are_finite_and_of_all_sizes_and_signs(magnitude: float, dtype: type) -> None:
    wide = widened(np.zeros((64, 4), dtype), magnitude, np.random.default_rng(0))
    assert wide.dtype == dtype
    assert np.isfinite(wide).all()
    assert (wide[0] >= 0.45 * magnitude).all()
    assert (wide[1] <= -0.45 * magnitude).all()
    assert (wide == 0).sum() >= 1
    assert (np.abs(wide[wide != 0]) <= 2e-6).any()
    assert widened(np.zeros((), dtype), magnitude, np.random.default_rng(0)).shape == ()
