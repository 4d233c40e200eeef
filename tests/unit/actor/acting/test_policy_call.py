import numpy as np
import pytest

from actor.acting.policy_call import PolicyCall
from shared.errors import SignatureMismatch
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.spaces import ObservationLeaf
from tests.support.agent_policies import ACTIONS, NESTED, VECTOR

STATE = ((("h",), (2,)),)


def _f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_inputs_come_in_the_order_of_the_signature() -> None:
    call = PolicyCall(acting_signature(NESTED, ACTIONS["discrete"], state=STATE, masked=True), 2)
    camera, speed = np.zeros((2, 8, 8, 1), np.uint8), _f32(2, 3)
    state, mask, noise = call.first_state(), np.ones((2, 3), np.bool_), _f32(2, 3)
    inputs = call.inputs([camera, speed], state, mask, noise)
    assert all(a is b for a, b in zip(inputs, [camera, speed, *state, mask, noise], strict=True))


def test_without_a_mask_every_action_is_allowed() -> None:
    call = PolicyCall(acting_signature(VECTOR, ACTIONS["discrete"], masked=True), 2)
    assert call.inputs([_f32(2, 4)], [], None, _f32(2, 3))[1].all()


def test_a_policy_without_masks_or_noise_is_given_none() -> None:
    full = acting_signature(VECTOR, ACTIONS["discrete"])
    call = PolicyCall(PolicySignature(full.observation, full.action, full.inputs[:1], full.outputs[:1]), 2)
    assert len(call.inputs([_f32(2, 4)], [], np.ones((2, 3), np.bool_), None)) == 1
    decision, state = call.read([np.array([0, 1])])
    assert decision.log_prob is None
    assert decision.value is None
    assert not state


@pytest.mark.parametrize(
    ("observation", "mask", "message"),
    [
        ([_f32(2, 4), _f32(2, 4)], None, "expected 1 arrays as an observation, found 2"),
        ([_f32(2, 5)], None, r"observation: expected float32 \(2, 4\), found float32 \(2, 5\)"),
        ([_f32(1, 4)], None, r"found float32 \(1, 4\)"),
        ([np.zeros((2, 4))], None, r"found float64 \(2, 4\)"),
        ([_f32(2, 4)], np.ones((2, 4), np.bool_), "action_mask: expected bool"),
        ([_f32(2, 4)], np.ones((2, 3), np.int8), "action_mask: expected bool"),
    ],
)
def test_an_observation_or_a_mask_that_does_not_fit_never_reaches_a_program(
    observation: list[np.ndarray], mask: np.ndarray | None, message: str
) -> None:
    call = PolicyCall(acting_signature(VECTOR, ACTIONS["discrete"], masked=mask is not None), 2)
    with pytest.raises(SignatureMismatch, match=message):
        call.inputs(observation, [], mask, _f32(2, 3))


def test_programs_get_contiguous_arrays() -> None:
    call = PolicyCall(acting_signature(VECTOR, ACTIONS["discrete"]), 2)
    (strided, _) = call.inputs([np.asfortranarray(_f32(2, 4))], [], None, _f32(2, 3))
    assert strided.flags.c_contiguous


def test_env_action_is_the_sample_in_the_dtype_of_the_space() -> None:
    call = PolicyCall(acting_signature(VECTOR, ACTIONS["multi_binary"]), 1)
    decision, _ = call.read([np.array([[0, 1, 1]]), _f32(1), _f32(1)])
    assert decision.action.dtype == np.int64
    assert decision.env_action.dtype == np.int8
    assert decision.env_action.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("nested", [True, False])
def test_flattening_casts_and_finds_every_leaf(nested: bool) -> None:
    call = PolicyCall(acting_signature(NESTED if nested else VECTOR, ACTIONS["discrete"]), 2)
    nesting = {"camera": (np.zeros((2, 8, 8, 1), np.uint8),), "speed": np.ones((2, 3))}
    leaves = call.flatten(nesting if nested else np.ones((2, 4)))
    assert [leaf.dtype.name for leaf in leaves] == (["uint8", "float32"] if nested else ["float32"])


def test_invalid_inputs_are_the_environments_fault() -> None:
    call = PolicyCall(acting_signature(VECTOR, ACTIONS["multi_discrete"], masked=True), 1)
    mask, noise = np.ones((1, 5), np.bool_), _f32(1, 5)
    assert call.input_fault([_f32(1, 4), mask, noise]) is None
    nan = np.full((1, 4), np.nan, np.float32)
    assert call.input_fault([nan, mask, noise]) == "observation holds values that are not finite, such as nan"
    discrete = (ObservationLeaf((), "discrete", "int64", (), (3,), (1,)),)
    numbered = PolicyCall(acting_signature(discrete, ACTIONS["discrete"]), 2)
    assert numbered.input_fault([np.array([1, 3]), _f32(2, 3)]) is None
    for outside in ([0, 1], [1, 4]):
        fault = numbered.input_fault([np.array(outside), _f32(2, 3)])
        assert fault == "observation holds numbers outside of its space"
    mask[0, 3:] = False
    assert call.input_fault([_f32(1, 4), mask, noise]) == "action_mask allows no action at all"
