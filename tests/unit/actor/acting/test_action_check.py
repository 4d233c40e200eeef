"""The check of outputs, for one row and for several."""

from collections.abc import Sequence

import numpy as np
import pytest

from actor.acting.action_check import action_check
from shared.policy.output_bounds import Bounds, InBounds, output_bounds
from shared.policy.probe import make_inputs
from shared.policy.signature import PolicySignature, TensorSpec, acting_signature
from shared.policy.spaces import ActionSpec
from tests.support.agent_policies import ACTIONS, VECTOR, make_policy

STATE = ((("h",), (2,)),)


@pytest.fixture(params=[1, 3])
def batch_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def _outputs(signature: PolicySignature, batch_size: int) -> dict[str, np.ndarray]:
    """Return valid outputs: the smallest action, zeros elsewhere."""
    outputs = {spec.name: np.zeros((batch_size, *spec.shape), spec.dtype) for spec in signature.outputs}
    if "env_action" in outputs and signature.action.start:
        outputs["env_action"] += np.array(signature.action.start, outputs["env_action"].dtype).reshape(
            signature.action.shape
        )
    return outputs


def _fault(
    signature: PolicySignature, batch_size: int, changes: dict[str, np.ndarray], mask: np.ndarray | None = None
) -> str:
    """Return "" for valid outputs."""
    outputs = _outputs(signature, batch_size) | changes
    return action_check(signature, batch_size)([outputs[name] for name in signature.output_names], mask) or ""


def _in_bounds(outputs: list[np.ndarray], bounds: Sequence[Bounds]) -> InBounds:
    found = InBounds(outputs)
    found.bounds = bounds
    return found


def _last_row(signature: PolicySignature, batch_size: int, name: str, value: float) -> dict[str, np.ndarray]:
    array = _outputs(signature, batch_size)[name]
    array[-1] = value
    return {name: array}


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_outputs_of_real_policies_pass(kind: str, network: str, batch_size: int) -> None:
    import torch

    policy = make_policy(action=kind, network=network)
    check = action_check(policy.signature, batch_size)
    for seed in range(5):
        inputs = [torch.from_numpy(array) for array in make_inputs(policy.signature, batch_size, seed)]
        with torch.no_grad():
            assert check([output.numpy() for output in policy(inputs)], None) is None


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("discrete", "action", 3),
        ("discrete", "action", -1),
        ("discrete_from_5", "env_action", 4),
        ("discrete_from_5", "env_action", 8),
        ("multi_discrete", "action", 2),  # in range for the first choice only
        ("multi_discrete", "action", -1),
        ("multi_binary", "action", 2),
        ("multi_binary", "action", -1),
        ("box", "env_action", 1.001),
        ("box", "env_action", -np.inf),
        ("box", "env_action", np.nan),
        ("box", "action", np.inf),
        ("discrete", "log_prob", np.nan),
        ("discrete", "log_prob", -np.inf),
        ("discrete", "value", np.inf),
        ("discrete", "state.h", np.nan),
    ],
)
def test_an_invalid_output_is_named(kind: str, name: str, value: float, batch_size: int) -> None:
    signature = acting_signature(VECTOR, ACTIONS[kind], state=STATE)
    assert _fault(signature, batch_size, _last_row(signature, batch_size, name, value)).startswith(name)


def test_the_bounds_of_a_box_are_inside_it(batch_size: int) -> None:
    signature = acting_signature(VECTOR, ACTIONS["box"])
    for value in (-1.0, 1.0, np.nextafter(np.float32(1), np.float32(2))):
        assert _fault(signature, batch_size, _last_row(signature, batch_size, "env_action", value)) == ""
    unbounded = _outputs(signature, batch_size)["env_action"]
    unbounded[:, 1] = 1e30
    assert _fault(signature, batch_size, {"env_action": unbounded}) == ""


def test_a_masked_action_is_a_fault(batch_size: int) -> None:
    signature = acting_signature(VECTOR, ACTIONS["discrete"], masked=True)
    mask = np.ones((batch_size, 3), np.bool_)
    mask[-1, 0] = False
    forbidden = f"action {np.zeros(batch_size, int)}, which the action mask forbids"
    assert _fault(signature, batch_size, {}, mask) == forbidden
    outputs = _in_bounds(list(_outputs(signature, batch_size).values()), output_bounds(signature))
    assert action_check(signature, batch_size)(outputs, mask) == forbidden, "outputs in bounds are checked too"
    mask[-1] = [True, False, False]
    assert _fault(signature, batch_size, {}, mask) == ""


def test_each_choice_of_a_multi_discrete_action_has_its_part_of_the_mask(batch_size: int) -> None:
    signature = acting_signature(VECTOR, ACTIONS["multi_discrete"], masked=True)
    mask = np.ones((batch_size, 5), np.bool_)
    action = np.tile(np.array([2, 1]), (batch_size, 1))
    mask[-1] = [False, False, True, False, True]
    assert _fault(signature, batch_size, {"action": action}, mask) == ""
    mask[-1] = [True, True, True, True, False]
    assert _fault(signature, batch_size, {"action": action}, mask).endswith("which the action mask forbids")


def test_outputs_of_another_shape_are_a_fault() -> None:
    signature = acting_signature(VECTOR, ACTIONS["discrete"])
    fault = _fault(signature, 3, {"value": np.zeros((3, 1), np.float32)})
    assert "its signature promises [(3,), (3,), (3,)]" in fault


def test_a_policy_that_gives_only_an_action_is_checked_too() -> None:
    full = acting_signature(VECTOR, ACTIONS["discrete"])
    signature = PolicySignature(full.observation, full.action, full.inputs[:1], (TensorSpec("action", "int64", ()),))
    check = action_check(signature, 2)
    assert check([np.array([0, 2])], None) is None
    assert check([np.array([0, 3])], None) == "action [0 3], which is not in discrete(n=[3])"


@pytest.mark.parametrize("kind", ACTIONS)
def test_all_outputs_in_bounds_pass(kind: str, batch_size: int) -> None:
    """Outputs at and between the bounds pass the full check, so that a program's own check can replace it."""
    signature = acting_signature(VECTOR, ACTIONS[kind], state=STATE)
    check = action_check(signature, batch_size)
    generator = np.random.default_rng(0)
    for _ in range(50):
        outputs = []
        for spec, bounds in zip(signature.outputs, output_bounds(signature), strict=True):
            assert bounds.shape == spec.shape
            low, high = (np.resize(np.array(limit), spec.shape or (1,)) for limit in (bounds.low, bounds.high))
            share = generator.choice([0.0, 1.0, 0.5], size=(batch_size, *low.shape))
            numbers = low * (1 - share) + high * share
            outputs.append(numbers.reshape(batch_size, *spec.shape).astype(spec.dtype))
        assert check(outputs, None) is None


def test_outputs_that_the_program_found_in_bounds_are_not_checked_again(batch_size: int) -> None:
    signature = acting_signature(VECTOR, ACTIONS["discrete"])
    check = action_check(signature, batch_size)
    outputs = list((_outputs(signature, batch_size) | _last_row(signature, batch_size, "log_prob", np.nan)).values())
    assert check(outputs, None) is not None
    assert check(_in_bounds(outputs, output_bounds(signature)), None) is None


def test_a_bounds_check_by_the_program_counts_only_for_equal_bounds_and_rows(batch_size: int) -> None:
    """A reused engine may come from a version with another action space."""
    signature = acting_signature(VECTOR, ACTIONS["discrete"])
    check = action_check(signature, batch_size)
    outputs = list((_outputs(signature, batch_size) | _last_row(signature, batch_size, "action", 3)).values())
    more = acting_signature(VECTOR, ActionSpec("discrete", "int64", (), (4,), (0,)))
    assert check(_in_bounds(outputs, output_bounds(more)), None) is not None
    assert check(_in_bounds(outputs[:2], output_bounds(signature)[:2]), None) is not None
    one_row_more = [np.concatenate([output, output[:1]]) for output in _outputs(signature, batch_size).values()]
    assert "its signature promises" in str(check(_in_bounds(one_row_more, output_bounds(signature)), None))
