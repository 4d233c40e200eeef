"""What a program is held to: rounding passes however wide a layer is, and a weight that was folded in never does."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from learner.export.export_checks import ExportChecks, perturbed, write_weights
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.eager import EagerEngine
from shared.errors import ExportError
from tests.support.agent_policies import ACTIONS, VECTOR

WIDE = NetworkConfig(hidden_sizes=(30_000,), shared_trunk=True, normalize_observations=True)


def wide_policy() -> ActingPolicy:
    return ActingPolicy(VECTOR, ACTIONS["discrete"], WIDE).eval()


def test_a_wide_layer_rounds_and_is_exported_all_the_same() -> None:
    policy = wide_policy()
    reports = {report.method: report for report in PolicyExporter(policy, policy.signature).reports}
    assert reports["onnx"].taken, reports["onnx"].error


@pytest.mark.parametrize("folded", wide_policy().state_dict())
def test_a_weight_that_was_folded_in_shows_in_a_wide_layer_too(folded: str) -> None:
    policy = wide_policy()
    checks = ExportChecks(policy, policy.signature)
    engine = EagerEngine(policy, "")

    def load_all_but_one(weights: Mapping[str, np.ndarray]) -> None:
        write_weights(policy, {**weights, folded: checks.weights[folded]})

    assert set(checks.differences(engine.run, lambda weights: write_weights(policy, weights)).values()) == {0}
    with pytest.raises(ExportError, match="new weights do not reach all of the program"):
        checks.differences(engine.run, load_all_but_one)


@given(
    numpy_strategies.arrays(
        np.float32,
        numpy_strategies.array_shapes(min_dims=0, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -np.inf, np.inf]),
    )
)
def test_every_weight_moves_and_keeps_its_sign(array: np.ndarray) -> None:
    moved = perturbed({"it": array}, np.random.default_rng(0))["it"]
    assert moved.dtype == array.dtype
    assert moved.shape == array.shape
    finite = np.isfinite(array)
    assert np.array_equal(moved[~finite], array[~finite])
    assert np.all((moved > 0)[array >= 0])
    assert np.all((moved < 0)[array < 0])
    assert np.all(moved[array == 0] != 0)
