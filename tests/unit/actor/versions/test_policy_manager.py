from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.policy_manager import PolicyManager
from actor.versions.version_life import VersionState, VersionTable
from tests.support.idle_policies import idle_policy

S = VersionState
Candidacy = tuple[LoadedPolicy, LoadedPolicy]


@pytest.fixture
def versions() -> VersionTable:
    return VersionTable()


@pytest.fixture
def manager(versions: VersionTable) -> PolicyManager:
    return PolicyManager(versions)


def _policy(versions: VersionTable, version: int, *, program: str = "p", digest: str | None = None) -> LoadedPolicy:
    versions.move(version, S.LOADING)
    return idle_policy(version, program=program, digest=digest)


def _acting(manager: PolicyManager, versions: VersionTable, *numbers: int) -> list[LoadedPolicy]:
    policies = [_policy(versions, number) for number in numbers]
    for policy in policies:
        manager.offer(policy)
        assert manager.adopt(begins_episodes=True) is policy
    return policies


def test_nothing_acts_before_the_first_offer(manager: PolicyManager) -> None:
    assert manager.adopt(begins_episodes=True) is None
    assert manager.acting is None
    assert manager.fail_acting("nothing acts") is None


def test_an_offer_acts_from_the_next_adoption_on(manager: PolicyManager, versions: VersionTable) -> None:
    (one,) = _acting(manager, versions, 1)
    two = _policy(versions, 2)
    manager.offer(two)
    assert manager.acting is one
    assert manager.held_version == 2
    assert manager.adopt(begins_episodes=False) is two
    assert manager.acting is manager.newest is two
    assert manager.adopt(begins_episodes=True) is two
    assert manager.highest_acted == 2


def test_a_newer_offer_replaces_one_that_was_not_adopted(manager: PolicyManager, versions: VersionTable) -> None:
    _acting(manager, versions, 1)
    two, three = _policy(versions, 2), _policy(versions, 3)
    manager.offer(two)
    manager.offer(three)
    assert manager.versions_in_memory() == {1, 3}
    assert manager.adopt(begins_episodes=True) is three
    assert manager.take_spare("onnx", "p", withdraw_ready=False) is two.engine


def test_the_engine_of_the_version_before_the_last_good_one_is_used_again(
    manager: PolicyManager, versions: VersionTable
) -> None:
    one, two, three = _acting(manager, versions, 1, 2, 3)
    assert manager.engines_alive() == 3
    assert manager.take_spare("onnx", "other program", withdraw_ready=True) is None
    assert manager.take_spare("torchscript", "p", withdraw_ready=True) is None
    assert manager.take_spare("onnx", "p", withdraw_ready=True) is one.engine
    twin = manager.take_spare("onnx", "p", withdraw_ready=True)
    assert twin is not None
    assert all(twin is not engine for engine in (one.engine, two.engine, three.engine)), "what acts is not written to"


def test_the_acting_and_the_last_good_engine_are_never_given_away(
    manager: PolicyManager, versions: VersionTable
) -> None:
    policies = _acting(manager, versions, 1)
    for version in range(2, 30):
        spare = manager.take_spare("onnx", "p", withdraw_ready=True)
        held = [policies[-1].engine, *(p.engine for p in policies[-2:-1])]
        assert all(spare is not engine for engine in held)
        policy = _policy(versions, version)
        policies.append(policy if spare is None else replace(policy, engine=spare))
        manager.offer(policies[-1])
        manager.adopt(begins_episodes=True)
        assert manager.engines_alive() <= 3


def test_the_standby_gives_up_its_engine_to_its_successor(manager: PolicyManager, versions: VersionTable) -> None:
    (one,) = _acting(manager, versions, 1)
    two = _policy(versions, 2)
    manager.offer(two)
    assert manager.take_spare("onnx", "p", withdraw_ready=True) is two.engine
    assert manager.versions_in_memory() == {1}
    assert manager.held_version == 1
    assert manager.adopt(begins_episodes=True) is one


def test_spares_beyond_one_are_freed(manager: PolicyManager, versions: VersionTable) -> None:
    _acting(manager, versions, 1, 2, 3, 4, 5)
    assert manager.engines_alive() == 5
    manager.trim_spares()
    assert manager.engines_alive() == 3


def test_a_version_that_came_too_late_leaves_its_engine(manager: PolicyManager, versions: VersionTable) -> None:
    (one,) = _acting(manager, versions, 1)
    late = _policy(versions, 2)
    manager.discard(late)
    assert versions.state(2) is S.SKIPPED
    assert manager.adopt(begins_episodes=True) is one
    assert manager.take_spare("onnx", "p", withdraw_ready=False) is late.engine


def test_the_last_good_policy_takes_over_from_one_that_fails(manager: PolicyManager, versions: VersionTable) -> None:
    one, _ = _acting(manager, versions, 1, 2)
    assert manager.fail_acting("NaN") is one
    assert manager.acting is one
    assert (versions.state(1), versions.state(2)) == (S.LOADED, S.FAILED)
    assert versions.quarantine_reason("d2") == "NaN"
    assert manager.highest_acted == 2
    assert manager.fail_acting("NaN too") is None
    assert manager.acting is None


def test_a_failure_drops_every_version_of_the_same_content(manager: PolicyManager, versions: VersionTable) -> None:
    one = _policy(versions, 1, digest="good")
    two, three = (_policy(versions, version, digest="bad") for version in (2, 3))
    for policy in (one, two):
        manager.offer(policy)
        manager.adopt(begins_episodes=True)
    manager.offer(three)
    assert manager.fail_acting("NaN") is one
    assert versions.state(3) is S.FAILED
    assert manager.adopt(begins_episodes=True) is one


def test_a_draw_from_history_acts_whole_episodes_only(manager: PolicyManager, versions: VersionTable) -> None:
    (five,) = _acting(manager, versions, 5)
    two = _policy(versions, 2)
    manager.offer_draw(two)
    assert manager.adopt(begins_episodes=False) is five
    assert manager.adopt(begins_episodes=True) is two
    six = _policy(versions, 6)
    manager.offer(six)
    assert manager.adopt(begins_episodes=False) is two
    assert manager.adopt(begins_episodes=True) is six
    assert manager.versions_in_memory() == {5, 6}, "the draw is over"
    assert manager.highest_acted == 6


def test_a_draw_that_fails_gives_way_to_the_newest(manager: PolicyManager, versions: VersionTable) -> None:
    (five,) = _acting(manager, versions, 5)
    manager.offer_draw(_policy(versions, 2))
    manager.adopt(begins_episodes=True)
    assert manager.fail_acting("NaN") is five
    assert [versions.state(v) for v in (2, 5)] == [S.FAILED, S.LOADED]


def test_a_draw_of_a_version_in_memory_loads_nothing(manager: PolicyManager, versions: VersionTable) -> None:
    four, five = _acting(manager, versions, 4, 5)
    assert not manager.draw_held(3)
    assert manager.draw_held(4)
    assert manager.adopt(begins_episodes=True) is four
    assert manager.draw_held(4)
    assert manager.adopt(begins_episodes=True) is four
    assert manager.adopt(begins_episodes=True) is five
    assert manager.versions_in_memory() == {4, 5}
    assert manager.engines_alive() == 2


def test_a_newer_version_adopted_behind_a_draw_retires_the_one_before(
    manager: PolicyManager, versions: VersionTable
) -> None:
    _acting(manager, versions, 5)
    manager.offer_draw(_policy(versions, 2))
    manager.adopt(begins_episodes=True)
    for newer, older in ((6, 3), (7, 1), (8, 4)):
        newest, draw = _policy(versions, newer), _policy(versions, older)
        manager.offer(newest)
        manager.offer_draw(draw)
        assert manager.adopt(begins_episodes=True) is draw
    assert manager.held_version == 8
    assert manager.adopt(begins_episodes=True) is newest


class _Alternating:
    """Assigns the candidate every other episode."""

    turns = 0

    def candidate_acts(self, baseline: LoadedPolicy, candidate: LoadedPolicy | None, *, begins_episodes: bool) -> bool:
        self.turns += candidate is not None and begins_episodes
        return candidate is not None and self.turns % 2 == 1


class TestCandidates:
    @pytest.fixture
    def manager(self, versions: VersionTable) -> PolicyManager:
        return PolicyManager(versions, _Alternating())

    @pytest.fixture
    def candidacy(self, manager: PolicyManager, versions: VersionTable) -> Candidacy:
        """Version 1, which acts, and version 2, its candidate."""
        (one,), two = _acting(manager, versions, 1), _policy(versions, 2)
        manager.offer_candidate(two)
        return one, two

    def _until(self, manager: PolicyManager, policy: LoadedPolicy) -> None:
        assert any(manager.adopt(begins_episodes=True) is policy for _ in range(2)), "it acts one episode in two"

    def test_a_candidate_acts_its_episodes_and_is_adopted_when_promoted(
        self, manager: PolicyManager, candidacy: Candidacy
    ) -> None:
        one, two = candidacy
        for policy in (two, one, two):
            self._until(manager, policy)
            assert manager.acting is policy
            assert manager.newest is one
            assert manager.versions_in_memory() == {1, 2}
        manager.promote_candidate(two)
        assert manager.adopt(begins_episodes=False) is two
        assert (manager.newest, manager.candidate) == (two, None)

    @pytest.mark.parametrize("acts", [True, False])
    def test_a_withdrawn_candidate_acts_no_more_and_its_engine_is_reused(
        self, manager: PolicyManager, versions: VersionTable, candidacy: Candidacy, *, acts: bool
    ) -> None:
        one, two = candidacy
        self._until(manager, two if acts else one)
        versions.fail(2, "worse", digest=two.digest)
        manager.withdraw_candidate(two)
        assert manager.adopt(begins_episodes=False) is one
        assert versions.state(2) is S.FAILED
        assert manager.take_spare("onnx", "p", withdraw_ready=False) is two.engine
        manager.promote_candidate(two)
        assert manager.adopt(begins_episodes=True) is one

    def test_a_candidate_that_fails_is_dropped_at_once(
        self, manager: PolicyManager, versions: VersionTable, candidacy: Candidacy
    ) -> None:
        one, two = candidacy
        self._until(manager, two)
        assert manager.fail_acting("NaN") is one
        assert manager.candidate is None
        assert versions.state(2) is S.FAILED

    def test_a_candidate_acts_if_nothing_else_is_left(self, manager: PolicyManager, candidacy: Candidacy) -> None:
        one, two = candidacy
        self._until(manager, one)
        assert manager.fail_acting("NaN") is two
        assert manager.candidate is None
        assert manager.adopt(begins_episodes=True) is two


@given(st.lists(st.sampled_from(["offer", "draw", "fail", "adopt", "begin", "trim", "spare"]), max_size=60))
def test_in_any_order_what_acts_is_never_written_to_and_only_loaded_versions_are_held(steps: list[str]) -> None:
    versions = VersionTable()
    manager = PolicyManager(versions)
    made = 0
    for step in steps:
        acting = manager.acting
        if step in ("offer", "draw"):
            made += 1
            offer = manager.offer if step == "offer" else manager.offer_draw
            offer(_policy(versions, made))
            assert manager.acting is acting
        elif step == "fail":
            now = manager.fail_acting("bad")
            assert now is not acting or acting is None
            assert acting is None or versions.state(acting.version) is S.FAILED
        elif step in ("adopt", "begin"):
            manager.adopt(begins_episodes=step == "begin")
        elif step == "trim":
            manager.trim_spares()
        else:
            spare = manager.take_spare("onnx", "p", withdraw_ready=True)
            assert spare is None or acting is None or spare is not acting.engine
        assert all(versions.state(version) is S.LOADED for version in manager.versions_in_memory())
        if (now_acts := manager.acting) is not None:
            assert now_acts.version in manager.versions_in_memory()
            assert manager.highest_acted is not None
            assert manager.highest_acted >= now_acts.version
