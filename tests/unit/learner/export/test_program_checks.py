"""The checks accept the rounding of wide layers, and refuse a program with a folded weight."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from learner.export.policy_export import PolicyExporter, policy_checks
from learner.export.program_checks import perturbed, write_weights
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.eager import EagerEngine
from shared.errors import ExportError
from tests.support.agent_policies import ACTIONS, VECTOR

WIDE = NetworkConfig(hidden_sizes=(30_000,), shared_trunk=True, normalize_observations=True)


def wide_policy() -> ActingPolicy:
    return ActingPolicy(VECTOR, ACTIONS["discrete"], WIDE).eval()


def test_rounding_of_a_wide_layer_is_accepted() -> None:
    policy = wide_policy()
    reports = {report.method: report for report in PolicyExporter(policy, policy.signature).reports}
    assert reports["onnx"].taken, reports["onnx"].error


@pytest.mark.parametrize("folded", wide_policy().state_dict())
def test_folded_weight_of_a_wide_layer_is_refused(folded: str) -> None:
    policy = wide_policy()
    checks = policy_checks(policy, policy.signature)
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
def test_perturbed_weights_differ_and_keep_their_signs(array: np.ndarray) -> None:
    moved = perturbed({"it": array})["it"]
    assert moved.dtype == array.dtype
    assert moved.shape == array.shape
    finite = np.isfinite(array)
    assert np.array_equal(moved[~finite], array[~finite])
    assert np.all((moved > 0)[array >= 0])
    assert np.all((moved < 0)[array < 0])
    assert np.all(moved[array == 0] != 0)
