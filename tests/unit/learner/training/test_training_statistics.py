"""The window that decides whether a training has solved its environment."""

from hypothesis import given
from hypothesis import strategies as st

from learner.training.training_statistics import WINDOW_EPISODES, EpisodeWindow
from shared.rollouts.rollout import EpisodeEnds

_returns = st.lists(st.floats(-1e6, 1e6), max_size=3 * WINDOW_EPISODES)


def _filled(returns: list[float]) -> EpisodeWindow:
    window = EpisodeWindow()
    window.add(EpisodeEnds(returns, [1] * len(returns), [0] * len(returns)))
    return window


def test_nothing_is_known_before_the_first_episode() -> None:
    window = EpisodeWindow()
    assert window.mean_return is None
    assert not window.solved(-1e9)


def test_fewer_episodes_than_the_window_prove_nothing() -> None:
    window = _filled([500.0] * (WINDOW_EPISODES - 1))
    assert not window.solved(475)
    window.add(EpisodeEnds([500.0], [500], [3]))
    assert window.solved(475)


def test_old_episodes_leave_the_window() -> None:
    assert _filled([0.0] * 50 + [500.0] * WINDOW_EPISODES).mean_return == 500


@given(_returns)
def test_a_window_survives_a_checkpoint(returns: list[float]) -> None:
    window = _filled(returns)
    restored = EpisodeWindow.from_state(window.state())
    assert restored.state() == window.state()
    assert restored.finished == len(returns)
