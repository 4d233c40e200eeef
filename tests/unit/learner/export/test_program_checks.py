"""The checks accept the rounding of wide layers, and refuse a folded weight and operators that actors refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from torch import Tensor, nn

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from learner.export.policy_export import PolicyExporter, policy_checks
from learner.export.program_checks import perturbed, write_weights
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.eager import EagerEngine
from shared.errors import ExportError, OperatorNotAllowed
from tests.support.agent_policies import ACTIONS, VECTOR

WIDE = NetworkConfig(hidden_sizes=(30_000,), shared_trunk=True, normalize_observations=True)


def wide_policy() -> ActingPolicy:
    return ActingPolicy(VECTOR, ACTIONS["discrete"], WIDE).eval()


def test_rounding_of_a_wide_layer_is_accepted() -> None:
    policy = wide_policy()
    reports = {report.method: report for report in PolicyExporter(policy, policy.signature).reports}
    assert reports["onnx"].taken, reports["onnx"].error


def test_every_folded_weight_of_a_wide_layer_is_refused() -> None:
    policy = wide_policy()
    checks = policy_checks(policy, policy.signature)
    engine = EagerEngine(policy, "")
    assert set(checks.differences(engine.run, lambda weights: write_weights(policy, weights)).values()) == {0}
    for folded in policy.state_dict():
        write_weights(policy, checks.weights)
        kept = checks.weights[folded]
        with pytest.raises(ExportError, match="new weights do not reach all of the program"):
            checks.differences(engine.run, lambda new, kept={folded: kept}: write_weights(policy, {**new, **kept}))


@given(
    numpy_strategies.arrays(
        np.float32,
        numpy_strategies.array_shapes(min_dims=0, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -np.inf, np.inf]),
    )
)
def test_perturbed_weights_differ_and_keep_their_signs(array: np.ndarray) -> None:
    moved = perturbed({"it": array})["it"]
    assert moved.dtype == array.dtype
    assert moved.shape == array.shape
    finite = np.isfinite(array)
    assert np.array_equal(moved[~finite], array[~finite])
    assert np.all((moved > 0)[array >= 0])
    assert np.all((moved < 0)[array < 0])
    assert np.all(moved[array == 0] != 0)


class Noisy(nn.Module):
    """Differs from its program only where chance has it: zero times noise is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand(x.shape)


class Counting(nn.Module):
    """Writes into a buffer, without an effect on its result."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x * 2


class Printing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("called")
        return x * 2


@pytest.mark.parametrize(
    ("module", "how", "operator"),
    [
        (Noisy(), "script", "rand"),
        (Noisy(), "trace", "rand"),
        (Noisy(), "onnx", "RandomUniform"),
        (Counting(), "script", "add_"),
        (Printing(), "script", "print"),
    ],
)
def test_the_author_hears_first_of_an_operator_that_actors_refuse(
    module: nn.Module, how: Any, operator: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"replace {operator}\w*, which .*--allow-operator"):
        export_module(module, (torch.ones(2, 3),), tmp_path / "m", how=how)


def test_author_and_user_may_allow_an_operator(tmp_path: Path) -> None:
    export_module(Noisy(), (torch.ones(2, 3),), tmp_path / "m", how="script", allowed_operators=("rand",))
    with pytest.raises(OperatorNotAllowed, match="replace rand"):
        load_policy(tmp_path / "m", sandbox=None)
    loaded = load_policy(tmp_path / "m", allowed_operators=("rand",), sandbox=None)
    torch.testing.assert_close(loaded(torch.ones(2, 3)), torch.ones(2, 3))
