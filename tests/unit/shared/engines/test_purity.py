"""The check accepts every honest policy at any batch size, and refuses what depends on more than one row."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.purity import PurityCheck, Run
from shared.errors import ProgramImpure
from shared.policy.probe import compute_probe, make_inputs, run_policy_in_place
from shared.policy.signature import PolicySignature
from shared.policy.spaces import action_spec, observation_leaves
from tests.support.agent_policies import make_policy
from tests.support.impure_policies import REASONS, ROW_MIXING, AroundPolicy, CountsInSilence, RefusesSingleRows
from tests.support.policies import SENSORS, TUPLE, VECTOR, stirred

OBSERVATIONS = (VECTOR, TUPLE, SENSORS, spaces.Box(0, 255, (12, 12, 3), np.uint8))
ACTIONS = (
    spaces.Discrete(5, start=3),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary([2, 3]),
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(-1, 1, (2,), np.float64),
)


@st.composite
def honest_policies(draw: st.DrawFn) -> ActingPolicy:
    action = draw(st.sampled_from(ACTIONS))
    network = NetworkConfig(
        draw(st.sampled_from(("mlp", "lstm", "gru"))),
        tuple(draw(st.lists(st.integers(1, 70), min_size=1, max_size=2))),
        draw(st.integers(1, 40)),
        draw(st.sampled_from(("tanh", "relu"))),
        shared_trunk=draw(st.booleans()),
        normalize_observations=draw(st.booleans()),
    )
    masked = draw(st.booleans()) and isinstance(action, spaces.Discrete | spaces.MultiDiscrete)
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    leaves = observation_leaves(draw(st.sampled_from(OBSERVATIONS)))
    return stirred(ActingPolicy(leaves, action_spec(action), network, masked, generator), seed).eval()


def _check_of(policy: torch.nn.Module, signature: PolicySignature, batch_size: int, rows: int = 8) -> PurityCheck:
    probe = compute_probe(policy, signature, batch_size=rows)
    return PurityCheck(signature, probe.inputs, batch_size, 1e-4, 1e-4)


def _eager(policy: torch.nn.Module, signature: PolicySignature) -> Run:
    return lambda inputs: run_policy_in_place(policy, signature, inputs)


@settings(max_examples=15)
@given(honest_policies(), st.integers(1, 80))
def test_honest_policies_pass_at_any_batch_size(policy: ActingPolicy, batch_size: int) -> None:
    check = _check_of(policy, policy.signature, batch_size)
    check.check(_eager(policy, policy.signature))
    check.check_repeats(_eager(policy, policy.signature))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("kind", [kind for kind in REASONS if kind not in (CountsInSilence, RefusesSingleRows)])
def test_impure_policies_are_refused_at_any_batch_size(kind: type[AroundPolicy], batch_size: int) -> None:
    honest = make_policy(network=kind.network)
    check = _check_of(honest, honest.signature, batch_size)
    torch.manual_seed(0)  # one in some hundred draws equals the one before in float32
    with pytest.raises(ProgramImpure, match=REASONS[kind]):
        check.check(_eager(kind().eval(), honest.signature))


@pytest.mark.parametrize("kind", ROW_MIXING)
def test_a_probe_of_one_row_is_enough_to_find_mixed_rows(kind: type[AroundPolicy]) -> None:
    honest = make_policy(network=kind.network)
    check = _check_of(honest, honest.signature, 3, rows=1)
    check.check(_eager(honest, honest.signature))
    with pytest.raises(ProgramImpure, match=REASONS[kind]):
        check.check(_eager(kind().eval(), honest.signature))


class _Program:
    """A correct program whose arrays are not its own."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._policy = make_policy()
        self._kept: dict[int, list[np.ndarray]] = {}

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = run_policy_in_place(self._policy, self._policy.signature, inputs)
        rows = len(outputs[0])
        if self._fault == "an input":
            inputs[1][:, 0] = inputs[1][:, 0] + 0  # the same values, in an output's memory
            wide = inputs[1].reshape(-1)[:rows]
            return [outputs[0], outputs[1], wide]
        if self._fault == "its last outputs":
            kept = self._kept.setdefault(rows, outputs)
            for array, output in zip(kept, outputs, strict=True):
                array[...] = output
            return kept
        if self._fault == "every second number":
            return [outputs[0], outputs[1], np.repeat(outputs[2], 2)[::2]]
        if self._fault == "another dtype":
            return [outputs[0], outputs[1].astype(np.complex64), outputs[2]]
        return outputs


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("an input", "value is not contiguous, or shares memory with an input"),
        ("its last outputs", "a later call overwrote the outputs of an earlier one"),
        ("every second number", "value is not contiguous"),
        ("another dtype", "expected float32"),
    ],
)
def test_arrays_that_are_not_the_programs_own_are_refused(fault: str, reason: str) -> None:
    signature = make_policy().signature
    check = _check_of(make_policy(), signature, 3)
    with pytest.raises(ProgramImpure, match=reason):
        check.check(_Program(fault).run)


def test_the_last_call_has_the_batch_size_in_use() -> None:
    policy, sizes = make_policy(), []

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(inputs[0]))
        return run_policy_in_place(policy, policy.signature, inputs)

    _check_of(policy, policy.signature, 5).check(run)
    assert sizes[0] == sizes[-1] == 5
    assert set(sizes) == {1, 5, 64}
    sizes.clear()
    PurityCheck(policy.signature, make_inputs(policy.signature, 8, 0), 100, 1e-4, 1e-4, fewest_rows=2).check(run)
    assert set(sizes) == {2, 100, 101}
