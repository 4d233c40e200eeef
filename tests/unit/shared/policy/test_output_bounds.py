import numpy as np
import pytest

from shared.policy.output_bounds import cardinalities, output_bounds
from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec
from tests.support.agent_policies import ACTIONS, VECTOR

_LARGEST = float(np.finfo(np.float32).max)
_FINITE = ((-_LARGEST,), (_LARGEST,))


def _limits(action: ActionSpec) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    signature = acting_signature(VECTOR, action, state=((("h",), (2,)),))
    bounds = output_bounds(signature)
    return {spec.name: (each.low, each.high) for spec, each in zip(signature.outputs, bounds, strict=True)}


@pytest.mark.parametrize(
    ("kind", "name", "limits"),
    [
        ("discrete", "action", ((0,), (2,))),
        ("discrete", "log_prob", _FINITE),
        ("discrete", "value", _FINITE),
        ("discrete", "state.h", _FINITE),
        ("discrete_from_5", "action", ((0,), (2,))),
        ("discrete_from_5", "env_action", ((5,), (7,))),
        ("multi_discrete", "action", ((0,), (2, 1))),
        ("multi_binary", "action", ((0,), (1,))),
        ("box", "action", _FINITE),
    ],
)
def test_bounds(kind: str, name: str, limits: object) -> None:
    assert _limits(ACTIONS[kind])[name] == limits


def test_cardinalities_have_the_shape_of_the_action() -> None:
    found = {kind: cardinalities(action).tolist() for kind, action in ACTIONS.items() if kind != "box"}
    assert found == {"discrete": 3, "discrete_from_5": 3, "multi_discrete": [3, 2], "multi_binary": [2, 2, 2]}


def test_bounds_of_choices_with_a_start() -> None:
    action = ActionSpec("multi_discrete", "int64", (3,), (3, 2, 5), (4, 0, -1))
    assert _limits(action)["env_action"] == ((4, 0, -1), (6, 1, 3))


def test_a_box_leaves_room_for_rounding_and_no_more() -> None:
    action = ActionSpec("box", "float32", (3,), low=(-1.0, None, 1 / 3), high=(2.0, 0.0, 1e9))
    low, high = _limits(action)["env_action"]
    exact_low, exact_high = np.array([-1 - 1e-6, -_LARGEST, 1 / 3 - 1e-6]), np.array([2 + 2e-6, 1e-6, 1e9 + 1e3])
    assert (low >= exact_low).all()
    assert (high <= exact_high).all()
    np.testing.assert_allclose(low, exact_low, rtol=2e-7)
    np.testing.assert_allclose(high, exact_high, rtol=2e-7)
    assert low == tuple(np.array(low, np.float32).tolist())
    assert high == tuple(np.array(high, np.float32).tolist())


def test_numbers_that_are_no_float32_are_rounded_inwards() -> None:
    action = ActionSpec("discrete", "int64", (), (2**24 + 2,), (0,))
    assert _limits(action)["action"] == ((0,), (2.0**24,)), "the last is 2^24 + 1"
