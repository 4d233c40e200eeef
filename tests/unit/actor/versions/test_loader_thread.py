"""The loader, driven by hand, and its thread. Most engines here are stubs: the tests of agents have real ones."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from actor.agent_builder import build_parts
from actor.agent_options import AgentOptions
from actor.loading.loaded_policy import LoadedPolicy, LoadResult
from actor.rollouts.episodes import FinishedEpisode
from actor.versions import loader_thread, store_listing
from actor.versions.follow_rules import Follow, Newest, Pinned
from actor.versions.loader_thread import PolicyLoader
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports
from actor.versions.selection_strategy import FollowSelection
from actor.versions.staleness import StalenessMonitor
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionTable
from actor.versions.version_loading import VersionLoader
from actor.versions.version_source import VersionSource
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.errors import ProbeMismatch, StoreUnavailable, TransientLoadError
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import local_store, publish_seed
from tests.support.idle_policies import StubEngines
from tests.support.sample_versions import publish_sample, publish_samples
from tests.support.waiting import Running, until


class _CountingWatcher(PolicyWatcher):
    """Receives no events."""

    checks = looks = 0

    def start(self) -> None:
        pass

    def check(self, *, force: bool = False) -> bool:
        self.checks += 1
        return super().check(force=force)

    def is_untouched(self) -> bool:
        self.looks += 1
        return super().is_untouched()


def test_an_idle_loader_only_looks_whether_the_store_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_listing, "PolicyWatcher", partial(_CountingWatcher, poll_s=0.002))
    store = local_store(tmp_path / "policies")
    publish_seed(store, 0)
    os.utime(store.path, (1e9, 1e9))  # as if nothing had happened there for a while
    loader, _ = build_parts(store, AgentOptions(prefetch=False))
    watcher, manager = loader.watcher, loader.manager
    assert isinstance(watcher, _CountingWatcher)
    loader.start()
    try:
        until(lambda: watcher.looks)
        checks, looks = watcher.checks, watcher.looks
        assert manager.held_version == 0
        until(lambda: watcher.looks > looks + 50)
        assert watcher.checks == checks
        publish_seed(store, 1)
        until(lambda: manager.held_version == 1)
    finally:
        loader.close()


class StubSource(VersionSource):
    """Offers a version when the test says so, and records its calls."""

    active = news = left = False
    keeps = 0

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.load_s: list[float] = []
        self.wake: WakeUp | None = None

    @property
    def is_active(self) -> bool:
        return self.active

    @property
    def has_news(self) -> bool:
        return self.news

    def take(self) -> bool:
        self.news = False
        return self.left

    def keep(self, wake: WakeUp, news: WakeUp) -> bool:
        self.wake = wake
        self.keeps += 1
        return self.active

    def leaves_to_loader(self, version: int) -> bool:
        return not self.active

    def loaded(self, load_s: float) -> bool:
        self.load_s.append(load_s)
        return True

    def announced(self) -> Sequence[int]:
        return self.seen

    def close(self) -> None:
        self.active = False


class _Strategy(FollowSelection):
    """Follows the newest version and records the calls of the loader."""

    def __init__(self, follow: Follow, manager: PolicyManager) -> None:
        super().__init__(follow, manager)
        self.looks = 0
        self.failures: list[tuple[str, str]] = []
        self.finished: list[FinishedEpisode] = []
        self.has_begun = False

    def look(self) -> None:
        self.looks += 1

    def failed(self, digest: str, reason: str) -> None:
        self.failures.append((digest, reason))

    def episode_began(self) -> bool:
        return self.has_begun

    def episodes_ended(self, finished: Sequence[FinishedEpisode]) -> None:
        self.finished.extend(finished)


class Bench:
    """A loader with its parts; no thread runs unless the test starts it."""

    def __init__(self, store: LocalPolicyStore, follow: Follow, staleness: StalenessMonitor | None) -> None:
        self.store, self.engines, self.source, self.reports = store, StubEngines(), StubSource(), Reports()
        self.manager = PolicyManager(VersionTable())
        self.listing = StoreListing(store, self.manager, self.reports)
        self.strategy = _Strategy(follow, self.manager)
        quarantine = QuarantineReporter(store, None, "actor-1", self.reports)
        versions = VersionLoader(
            self.listing,
            self.manager.versions,
            self.engines,
            Authenticity(),
            quarantine=quarantine,
            reports=self.reports,
        )
        self.loader = PolicyLoader(
            self.listing, self.manager, self.strategy, versions, source=self.source, staleness=staleness
        )

    @property
    def is_awake(self) -> bool:
        """True if the loader thread would be awake; resets that."""
        found = self.listing.wake.wait(0)
        self.listing.wake.clear()
        return found

    def act(self) -> int:
        """Load what is pending and adopt it; return the version that acts."""
        self.loader.load_pending()
        policy = self.manager.adopt(begins_episodes=True)
        assert policy is not None
        return policy.version


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(store: LocalPolicyStore) -> MakeBench:
    def make(follow: Follow | None = None, staleness: StalenessMonitor | None = None) -> Bench:
        return Bench(store, follow or Newest(), staleness)

    return make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


def test_the_newest_version_is_loaded_and_those_before_it_never(bench: Bench) -> None:
    publish_samples(bench.store, 3)
    assert bench.act() == 2
    publish_samples(bench.store, 2)
    assert bench.act() == 4
    assert bench.engines.loaded == [2, 4]
    assert bench.strategy.looks == 2


def test_versions_published_during_a_load_are_loaded_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_sample(bench.store)
    load = bench.engines.load

    def load_and_publish(*given):
        if not bench.engines.loaded:
            publish_sample(bench.store)
            bench.listing.watcher.announce(1)
        return load(*given)

    monkeypatch.setattr(bench.engines, "load", load_and_publish)
    assert bench.act() == 1
    assert bench.engines.loaded == [0, 1]


def test_a_version_that_fails_gives_way_to_the_one_before(bench: Bench) -> None:
    publish_samples(bench.store, 3)
    bench.engines.errors = {2: ProbeMismatch("row 3 differs"), 1: TransientLoadError("late")}
    assert bench.act() == 0
    assert [bench.loader.has_failed(version) for version in range(4)] == [False, True, True, False]
    ((digest, reason),) = bench.strategy.failures
    assert bench.store.quarantined() == {digest: reason}
    assert 0 < bench.loader.next_try_s() <= 0.1
    assert bench.loader.describe_failures() == (
        "version 2 (quarantined): ProbeMismatch: row 3 differs; "
        "version 1 (1 attempts, will be tried again): TransientLoadError: late"
    )


def test_a_failure_while_acting_is_shared_by_the_next_look(bench: Bench) -> None:
    publish_sample(bench.store)
    bench.act()
    bench.is_awake  # noqa: B018 - resets it
    bench.loader.acting_failed("1" * 64, "NaN")
    assert bench.is_awake
    assert bench.store.quarantined() == {}
    bench.loader.load_pending()
    assert bench.store.quarantined() == {"1" * 64: "NaN"}


def test_spare_engines_are_trimmed_after_loads(bench: Bench) -> None:
    for _ in range(6):
        publish_sample(bench.store)
        bench.act()
    bench.loader.load_pending()
    assert bench.manager.engines_alive() == 3
    assert list(bench.reports) == []


@pytest.mark.parametrize(
    ("follow", "versions", "listed", "said"),
    [
        (Newest(), 0, False, "it has not been read yet: give it more time"),
        (Newest(), 0, True, "no version has been published there yet"),
        (Pinned(7), 3, True, "version 7 is not among its 3 versions (0 to 2)"),
        (Pinned(1), 2, True, "no version has been loaded yet"),
    ],
)
def test_an_agent_that_waits_learns_why(
    make_bench: MakeBench, follow: Follow, versions: int, listed: bool, said: str
) -> None:
    bench = make_bench(follow)
    publish_samples(bench.store, versions)
    if listed:
        bench.listing.look(force=True)
    assert bench.loader.describe_failures() == said


def test_a_store_that_fails_is_the_first_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_sample(bench.store)
    bench.engines.error = ProbeMismatch("row 3 differs")
    bench.loader.load_pending()

    def fail() -> list[int]:
        raise StoreUnavailable("the mount is gone")

    monkeypatch.setattr(bench.store, "versions", fail)
    bench.listing.look(force=True)
    assert bench.loader.describe_failures() == (
        "the store: the mount is gone; version 0 (quarantined): ProbeMismatch: row 3 differs"
    )
    assert bench.loader.next_try_s() <= 0.1


def test_any_error_of_a_look_is_a_report(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("who would have thought")

    monkeypatch.setattr(bench.strategy, "look", fail)
    bench.loader.load_pending()
    assert bench.reports[-1].level == "ERROR"
    assert "ZeroDivisionError: who would have thought" in bench.reports[-1].message


def test_a_version_that_cannot_be_placed_has_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(policy: LoadedPolicy) -> None:
        raise ZeroDivisionError("who would have thought")

    digest = publish_sample(bench.store).digest
    monkeypatch.setattr(bench.strategy, "place", fail)
    bench.loader.load_pending()
    assert bench.loader.has_failed(0)
    assert bench.manager.versions.quarantine_reason(digest) == "ZeroDivisionError: who would have thought"
    assert bench.source.load_s == [], "a version without a role is no load"
    bench.loader.load_pending()
    assert bench.engines.loaded == [0]


def test_a_version_is_held_once_it_is_ready(bench: Bench) -> None:
    publish_samples(bench.store, 2)
    assert not bench.loader.holds(1)
    assert bench.is_awake, "it is not listed yet"
    bench.listing.look(force=True)
    assert not bench.loader.holds(1)
    assert not bench.is_awake, "its load is under way"
    bench.loader.load_pending()
    assert bench.loader.holds(0)
    assert bench.loader.holds(1)
    bench.is_awake  # noqa: B018 - resets it
    assert not bench.loader.holds(2)
    assert bench.is_awake


def test_every_version_is_held_if_other_actors_decide(bench: Bench) -> None:
    bench.strategy.decides_with_others = True
    assert bench.loader.holds(10**6)
    assert not bench.is_awake


def test_news_end_a_wait(bench: Bench) -> None:
    publish_sample(bench.store)
    bench.loader.load_pending()
    bench.loader.wait_for_news(60.0)
    assert not bench.loader.is_waited_for
    bench.loader.wait_for_news(0.0)
    waiting = Running(bench.loader.wait_for_news, 60.0)
    until(lambda: bench.loader.is_waited_for)
    publish_sample(bench.store)
    bench.loader.load_pending()
    waiting.join()
    assert bench.source.load_s[1:] == [0.0], "the acting thread had nothing else to do"


def test_the_source_learns_the_time_that_a_load_takes_from_acting(bench: Bench) -> None:
    publish_sample(bench.store)
    bench.loader.load_pending()
    (load_s,) = bench.source.load_s
    assert 0 < load_s < 60
    assert bench.is_awake, "the source said that it is due"
    bench.loader.is_waited_for = True
    publish_sample(bench.store)
    bench.loader.load_pending()
    assert bench.source.load_s[1] == 0
    bench.engines.error = ProbeMismatch("row 3 differs")
    publish_sample(bench.store)
    bench.loader.load_pending()
    assert len(bench.source.load_s) == 2, "a failed load is none of its business"


def test_the_loader_leaves_versions_to_an_active_source(bench: Bench) -> None:
    publish_sample(bench.store)
    bench.source.active = True
    assert bench.loader.is_prefetching
    bench.loader.load_pending()
    assert bench.engines.loaded == []
    assert not bench.is_awake
    bench.loader.take_prefetched()
    assert not bench.is_awake
    bench.source.news = bench.source.left = True
    assert not bench.loader.holds(0)
    assert not bench.source.news
    assert bench.is_awake, "the source left the version to the loader"
    bench.source.news, bench.source.left = True, False
    bench.loader.take_prefetched()
    assert not bench.is_awake
    bench.loader.close()
    assert not bench.loader.is_prefetching


def test_episodes_reach_the_strategy(bench: Bench) -> None:
    episode = FinishedEpisode(1.0, 1, 0, (0,), "d0")
    bench.loader.episodes_ended([episode])
    assert bench.strategy.finished == [episode]
    bench.loader.episode_began()
    assert not bench.is_awake
    bench.strategy.has_begun = True
    bench.loader.episode_began()
    assert bench.is_awake


def test_the_age_of_the_newest_policy_is_reported_unless_it_is_pinned(make_bench: MakeBench) -> None:
    for follow, reported in ((Newest(), ["policy version 0 is stale age="]), (Pinned(0), [])):
        bench = make_bench(follow, StalenessMonitor(60.0, alarming=True))
        if not bench.store.versions():
            publish_sample(bench.store)
        bench.act()
        bench.loader.load_pending()
        assert [message.partition("age=")[0] + "age=" for _, message in bench.reports] == reported


def test_an_idle_loader_looks_at_the_interval_of_its_watcher(bench: Bench) -> None:
    bench.listing.look(force=True)
    assert bench.loader.next_try_s() == bench.loader.watcher.interval_s


class TestThread:
    def test_it_loads_new_versions_and_ends_when_closed(self, bench: Bench) -> None:
        publish_sample(bench.store)
        bench.loader.start()
        try:
            (thread,) = (thread for thread in threading.enumerate() if thread.name == "agent-loader")
            assert thread.daemon, "a process that forgets to close its agent ends all the same"
            bench.loader.wait_for_news(20.0)
            until(lambda: bench.manager.held_version == 0)
            publish_sample(bench.store)
            until(lambda: bench.manager.held_version == 1)
        finally:
            bench.loader.close()
        assert not thread.is_alive()
        publish_sample(bench.store)
        assert bench.engines.loaded == [0, 1]
        bench.loader.close()

    def test_it_hands_the_watch_to_a_source_and_takes_it_back(self, bench: Bench) -> None:
        publish_sample(bench.store)
        bench.source.active, bench.source.seen = True, [0]
        bench.loader.start()
        try:
            until(lambda: bench.loader.watcher.is_delegated)
            assert bench.source.wake is bench.listing.wake
            assert bench.engines.loaded == []
            bench.source.seen = []
            bench.source.active = False
            bench.listing.wake.set()
            until(lambda: not bench.loader.watcher.is_delegated)
            until(lambda: bench.manager.held_version == 0)
        finally:
            bench.loader.close()

    def test_an_agent_does_not_wait_for_the_loader_to_take_from_the_source(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, may_finish = threading.Event(), threading.Event()

        def load(*_: object) -> LoadResult:
            begun.set()
            may_finish.wait(5.0)
            raise ProbeMismatch("row 3 differs")

        monkeypatch.setattr(bench.engines, "load", load)
        publish_sample(bench.store)
        bench.loader.start()
        try:
            assert begun.wait(20.0)
            bench.source.news = True
            bench.loader.take_prefetched()
            assert bench.source.news, "the next call takes it"
        finally:
            may_finish.set()
            bench.loader.close()


class TestRest:
    """The thread while the directory of the store does not change, without events."""

    @pytest.fixture
    def bench(self, store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
        monkeypatch.setattr(store_listing, "PolicyWatcher", partial(_CountingWatcher, poll_s=0.002))
        publish_sample(store)
        os.utime(store.path, (1e9, 1e9))
        bench = Bench(store, Newest(), StalenessMonitor(math.inf, alarming=False))
        yield bench
        bench.loader.close()

    def test_it_ends_early_if_other_actors_decide(self, bench: Bench) -> None:
        bench.strategy.decides_with_others = True
        bench.loader.start()
        until(lambda: bench.strategy.looks > 30)

    def test_it_ends_at_its_limit(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader_thread, "_REST_S", 0.01)
        bench.loader.start()
        until(lambda: bench.strategy.looks > 30)

    def test_only_a_rest_that_fails_is_replaced_by_a_pause(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
        monkeypatch.setattr(loader_thread, "time", clock)
        monkeypatch.setattr(loader_thread, "_REST_S", 0.001)
        bench.loader.start()
        until(lambda: bench.strategy.looks > 5)
        assert pauses == []
        monkeypatch.setattr(bench.loader, "_rest", lambda: 1 / 0)
        until(lambda: len(pauses) > 1)
        assert set(pauses) == {0.25}

    def test_it_ends_for_a_retry(self, bench: Bench) -> None:
        bench.engines.error = TransientLoadError("late")
        bench.loader.start()
        until(lambda: bench.manager.versions.attempts(0) >= 3)

    def test_it_ends_for_a_report_of_the_age(self, store: LocalPolicyStore, bench: Bench) -> None:
        bench = Bench(store, Newest(), StalenessMonitor(0.05, alarming=False))
        bench.loader.load_pending()
        bench.manager.adopt(begins_episodes=True)
        bench.loader.start()
        try:
            until(lambda: sum("is stale" in message for _, message in tuple(bench.reports)) >= 3)
        finally:
            bench.loader.close()
