"""The assignment of turns, and the episodes that count."""

import numpy as np
import pytest

from actor.canary.canary_assignment import CanaryAssignment
from actor.canary.canary_ledger import MOST_RETURNS
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from tests.support.sample_versions import SIGNATURE

BASELINE, CANDIDATE = (
    LoadedPolicy(version, str(version) * 64, SIGNATURE, None, "onnx", b"")  # type: ignore[arg-type]
    for version in (0, 1)
)


def _ended(row: int, value: float) -> FinishedEpisode:
    return FinishedEpisode(value, 1, 0, (0,), "", row)


def _returns(assignment: CanaryAssignment) -> tuple[float, ...]:
    assert assignment.evidence is not None
    return assignment.evidence.candidate_returns + assignment.evidence.baseline_returns


def test_without_a_candidate_nothing_is_drawn() -> None:
    assignment = CanaryAssignment(0.5, 1, seed=0)
    assert not assignment.candidate_acts(BASELINE, None, begins_episodes=True)
    assignment.ended([_ended(0, 1.0)])
    assert assignment.evidence is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_candidate_acts_its_share_of_the_turns(share: float) -> None:
    assignment = CanaryAssignment(share, 1, seed=0)
    drawn = []
    for _ in range(2000):
        drawn.append(assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=True))
        assignment.ended([_ended(0, 1.0)])
    assert np.mean(drawn) == pytest.approx(share, abs=0.05)


def test_a_turn_lasts_until_every_environment_has_ended_an_episode_that_began_in_it() -> None:
    assignment = CanaryAssignment(0.5, 2, seed=0)
    acts = assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=False)
    assignment.ended([_ended(0, 1), _ended(0, 2), _ended(0, 3), _ended(1, 4)])
    assert _returns(assignment) == (), "environment 1 has ended what was begun before"
    assert all(assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=False) is acts for _ in range(50))
    assignment.ended([_ended(0, 5), _ended(1, 6)])
    assert _returns(assignment) == (2, 6)


def test_episodes_that_all_begin_with_the_turn_count_at_once() -> None:
    assignment = CanaryAssignment(0.5, 2, seed=0)
    assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=True)
    assignment.ended([_ended(1, 1), _ended(1, 2), _ended(0, 3), _ended(0, 4)])
    assert _returns(assignment) == (1, 3)


def test_another_pair_starts_empty_and_returns_that_are_not_finite_do_not_count() -> None:
    assignment = CanaryAssignment(0.5, 1, seed=0)
    for value in (1.0, float("nan"), float("inf"), 2.0):
        assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=True)
        assignment.ended([_ended(0, value)])
    assert sorted(_returns(assignment)) == [1, 2]
    assignment.candidate_acts(CANDIDATE, BASELINE, begins_episodes=True)
    assert _returns(assignment) == ()


def test_the_number_of_returns_is_bounded() -> None:
    assignment = CanaryAssignment(0.5, 1, seed=0)
    for value in range(10 * MOST_RETURNS):
        assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=True)
        assignment.ended([_ended(0, value)])
    assert assignment.evidence is not None
    assert len(assignment.evidence.candidate_returns) == len(assignment.evidence.baseline_returns) == MOST_RETURNS


def test_short_episodes_are_not_preferred() -> None:
    """Environments step together. The return of an episode is its length; one in three is ten times as long."""
    rng = np.random.default_rng(0)
    n = 8
    assignment = CanaryAssignment(0.3, n, seed=0)
    sums, counts = np.zeros(2), np.zeros(2)
    lengths, left = np.zeros(n), np.zeros(n)
    assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=False)
    for _ in range(6000):
        left -= 1
        finished = [_ended(row, lengths[row]) for row in np.flatnonzero(left <= 0)]
        for row in np.flatnonzero(left <= 0):
            lengths[row] = left[row] = rng.choice([2, 2, 20])
        before = assignment.evidence
        assignment.ended(finished)
        if before is not assignment.evidence and assignment.evidence is not None:
            for i, kept in enumerate((assignment.evidence.candidate_returns, assignment.evidence.baseline_returns)):
                sums[i] += sum(kept)
                counts[i] += len(kept)
            assignment.candidate_acts(CANDIDATE, BASELINE, begins_episodes=False)  # empties what was counted
        assignment.candidate_acts(BASELINE, CANDIDATE, begins_episodes=False)
    assert counts.min() > 300
    np.testing.assert_allclose(sums / counts, 8.0, rtol=0.15)
