import pytest

from actor.loading.loaded_policy import LoadedPolicy
from actor.versions.follow_rules import History, Newest, Pinned
from actor.versions.policy_manager import PolicyManager
from actor.versions.selection_strategy import FollowSelection, HistorySelection
from actor.versions.version_life import VersionState, VersionTable
from tests.support.idle_policies import idle_policy

KNOWN = list(range(10))


@pytest.fixture
def manager() -> PolicyManager:
    return PolicyManager(VersionTable())


def loading(manager: PolicyManager, version: int) -> LoadedPolicy:
    """Return a policy as a strategy places it: its version is being loaded."""
    manager.versions.move(version, VersionState.LOADING)
    return idle_policy(version)


def acting(manager: PolicyManager, version: int) -> LoadedPolicy:
    policy = loading(manager, version)
    manager.offer(policy)
    assert manager.adopt(begins_episodes=True) is policy
    return policy


def draws(strategy: HistorySelection, episodes: int) -> list[int | None]:
    """Return the version that each of some episodes selects, or None if the newest acts it."""
    found = []
    for _ in range(episodes):
        assert strategy.episode_began()
        found.append(strategy.select(KNOWN, {3}))
    return found


def test_the_newest_is_selected_until_it_is_held(manager: PolicyManager) -> None:
    strategy = FollowSelection(Newest(), manager)
    assert strategy.select([1, 2], ()) == 2
    assert strategy.select([1, 2], {2}) == 1
    strategy.place(loading(manager, 2))
    assert manager.held_version == 2
    assert strategy.select([1, 2], ()) is None
    assert strategy.select([1, 2, 3], ()) == 3


def test_nothing_below_the_highest_that_acted_is_selected_while_one_acts(manager: PolicyManager) -> None:
    strategy = FollowSelection(Newest(), manager)
    acting(manager, 1)
    acting(manager, 5)
    manager.fail_acting("bad")
    assert manager.held_version == 1
    assert strategy.select([1, 2, 5], {5}) is None
    assert strategy.select([1, 2, 5, 6], {5}) == 6


def test_a_pin_is_selected_whatever_is_newer(manager: PolicyManager) -> None:
    strategy = FollowSelection(Pinned(4), manager)
    assert strategy.follow == Pinned(4)
    assert strategy.select(KNOWN, ()) == 4


def test_the_successor_of_a_standby_takes_its_engine(manager: PolicyManager) -> None:
    strategy = FollowSelection(Newest(), manager)
    standby = loading(manager, 1)
    strategy.place(standby)
    assert strategy.take_spare("onnx", "another program") is None
    assert strategy.take_spare("torchscript", "p") is None
    assert strategy.take_spare("onnx", "p") is standby.engine


def test_a_strategy_that_follows_versions_decides_alone_and_ignores_episodes(manager: PolicyManager) -> None:
    strategy = FollowSelection(Newest(), manager)
    assert not strategy.decides_with_others
    assert not strategy.episode_began()


def test_an_episode_draws_an_older_version_once(manager: PolicyManager) -> None:
    strategy = HistorySelection(History(1.0), manager, seed=0)
    acting(manager, 8)
    assert strategy.select([6, 8], ()) == 6, "the first episode has begun already"
    assert strategy.select([6, 8], ()) is None
    assert strategy.episode_began()
    assert strategy.select([6, 8], ()) == 6
    drawn = loading(manager, 6)
    strategy.place(drawn)
    assert manager.held_version == 8
    assert manager.has_draw
    strategy.episode_began()
    assert strategy.select([6, 8], ()) is None, "a draw is waiting already"
    assert manager.adopt(begins_episodes=True) is drawn
    assert strategy.select([6, 8], ()) is None, "it is in memory and acts again"
    assert manager.has_draw


def test_a_newer_version_comes_before_a_draw(manager: PolicyManager) -> None:
    strategy = HistorySelection(History(1.0), manager, seed=0)
    assert strategy.select([6, 8], ()) == 8, "nothing acts yet"
    acting(manager, 8)
    strategy.episode_began()
    assert strategy.select([6, 8, 9], ()) == 9
    strategy.place(loading(manager, 9))
    assert manager.held_version == 9
    assert not manager.has_draw
    assert strategy.select([6, 8, 9], {8}) == 6, "the draw is still due"


def test_a_draw_leaves_the_engine_of_the_standby_alone(manager: PolicyManager) -> None:
    strategy = HistorySelection(History(1.0), manager, seed=0)
    acting(manager, 7)
    standby = loading(manager, 8)
    strategy.place(standby)
    assert strategy.select([6, 7, 8], ()) == 6
    twin = strategy.take_spare("onnx", "p")
    assert twin is not None
    assert twin is not standby.engine
    assert strategy.select([6, 7, 8, 9], ()) == 9
    assert strategy.take_spare("onnx", "p") is standby.engine, "version 9 replaces it"


def test_a_share_of_the_episodes_draws_uniformly_by_the_seed(manager: PolicyManager) -> None:
    acting(manager, 9)
    found = draws(HistorySelection(History(0.5), manager, seed=1), 800)
    assert 350 < 800 - found.count(None) < 450
    assert {version for version in found if version is not None} == set(KNOWN) - {3, 9}
    assert found == draws(HistorySelection(History(0.5), manager, seed=1), 800)
    assert found != draws(HistorySelection(History(0.5), manager, seed=2), 800)
    assert draws(HistorySelection(History(0.0), manager, seed=1), 100) == [None] * 100
