"""Values that no environment and no policy of a run can have given are refused by name, place and value."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from shared.errors import RolloutInvalid, RolloutOutOfBounds
from shared.policy.spaces import action_spec
from shared.rollouts.rollout import EpisodeEnds, RolloutLayout
from shared.rollouts.value_checks import check_choices, check_elements, check_within, log_prob_bounds
from tests.support.rollout_examples import example_rollout, plain_layout


@pytest.mark.parametrize(
    ("space", "bounds"),
    [
        (spaces.Discrete(5), (-100, 0.001)),
        (spaces.MultiDiscrete([2, 3, 4]), (-300, 0.003)),
        (spaces.MultiBinary(4), (-400, 0.004)),
        (spaces.Box(-1, 1, (2, 3)), (-600, 600)),
        (spaces.Box(-1, 1, ()), (-100, 100)),
    ],
    ids=str,
)
def test_log_probabilities_are_bounded_for_each_choice_and_number(
    space: spaces.Space[object], bounds: tuple[float, float]
) -> None:
    assert log_prob_bounds(action_spec(space)) == pytest.approx(bounds)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_float_that_is_not_finite_is_named(value: float) -> None:
    array = np.zeros((3, 2), np.float32)
    check_elements("reward", array)
    array[1, 1] = array[2, 0] = value
    with pytest.raises(RolloutOutOfBounds, match=rf"^reward holds .* not finite: reward\[1, 1\] is {value:g}$"):
        check_elements("reward", array)


def test_bounds_are_allowed_values() -> None:
    array = np.array([[-1.5, 1.5]], np.float32)
    check_within("reward", array, -1.5, 1.5)
    check_within("reward", array[:0], -1.5, 1.5)
    for low, high, place, value in ((-1.4, 1.5, 0, -1.5), (-1.5, 1.4, 1, 1.5)):
        with pytest.raises(
            RolloutOutOfBounds, match=rf"outside \[{low}, {high}\] as given: .*\[0, {place}\] is {value}$"
        ):
            check_within("reward", array, low, high, " as given")


def test_nan_is_within_no_bounds() -> None:
    with pytest.raises(RolloutOutOfBounds, match=r"\[1\] is nan"):
        check_within("reward", np.array([0.0, np.nan], np.float32), -1, 1)


def test_choices_outside_raise_the_given_error() -> None:
    array = np.array([[0, 2], [1, 3]])
    check_choices("action", array, 0, np.array([2, 4]))
    for error in (RolloutInvalid, RolloutOutOfBounds):
        with pytest.raises(RolloutInvalid, match=r"action\[1, 1\] is 3$") as caught:
            check_choices("action", array, 0, np.array([2, 3]), error)
        assert caught.type is error


@pytest.mark.parametrize("reward", [1000.5, -3e38])
def test_a_layout_has_a_limit_of_rewards(reward: float) -> None:
    unlimited, limited = plain_layout(), replace(plain_layout(), reward_limit=1000.0)
    rollout = example_rollout(unlimited)
    limited.check(rollout)
    rollout.reward[2, 1] = reward
    unlimited.check(rollout)
    with pytest.raises(RolloutOutOfBounds, match=r"outside \[-1000, 1000\] \(--reward-limit\): reward\[2, 1\] is"):
        limited.check(rollout)


@pytest.mark.parametrize("log_prob", [-3e38, -101.0, 0.1])
def test_a_layout_refuses_log_probabilities_that_no_drawn_action_has(log_prob: float) -> None:
    layout = plain_layout()
    rollout = example_rollout(layout)
    rollout.behaviour_log_prob[0, 1] = log_prob
    with pytest.raises(RolloutOutOfBounds, match=r"behaviour_log_prob holds values outside \[-100, 0\.001\]"):
        layout.check(rollout)


@pytest.mark.parametrize(("total", "is_possible"), [(3000.0, True), (-3000.0, True), (3001.0, False), (np.nan, False)])
def test_returns_are_bounded_for_each_step_of_an_episode(total: float, is_possible: bool) -> None:
    layout: RolloutLayout = replace(plain_layout(), reward_limit=1000.0)
    rollout = example_rollout(layout)
    rollout.header = msgspec.structs.replace(rollout.header, episodes=EpisodeEnds([total], [3], [0]))
    if is_possible:
        layout.check(rollout)
        return
    with pytest.raises(RolloutOutOfBounds, match="no episode can have ended with this return"):
        layout.check(rollout)
