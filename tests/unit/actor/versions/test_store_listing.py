"""The listing of a store that fails, on a clock of the test. The agents' fault tests have the whole behaviour."""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from actor.versions import store_listing
from actor.versions.policy_manager import PolicyManager
from actor.versions.reports import Reports
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionState, VersionTable
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore
from tests.support.idle_policies import idle_policy
from tests.support.sample_versions import publish_sample, publish_samples

LARGEST_JITTER_S = 0.05


class FailingStore(LocalPolicyStore):
    """A store that does not answer while it has a ``fault``."""

    fault: Exception | None = None
    listings = 0

    def versions(self) -> list[int]:
        self.listings += 1
        if self.fault is not None:
            raise self.fault
        return super().versions()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(store_listing, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


@pytest.fixture
def failing(store: LocalPolicyStore) -> FailingStore:
    publish_samples(store, 2)
    return FailingStore(store.path, fsync=False)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def listing(failing: FailingStore, reports: Reports) -> StoreListing:
    return StoreListing(failing, PolicyManager(VersionTable()), reports)


def test_versions_are_recorded_when_the_listing_changes(store: LocalPolicyStore, reports: Reports) -> None:
    manager = PolicyManager(VersionTable())
    listing = StoreListing(store, manager, reports)
    publish_samples(store, 2)
    assert listing.known == ()
    assert listing.look(force=True)
    assert listing.known == (0, 1)
    assert manager.versions.state(1) is VersionState.SEEN
    publish_sample(store)
    assert listing.look(force=True)
    assert (manager.versions.state(1), manager.versions.state(2)) == (VersionState.SKIPPED, VersionState.SEEN)
    assert list(reports) == []


def test_an_unchanged_store_is_not_listed_again_unless_forced(failing: FailingStore, listing: StoreListing) -> None:
    listing.watcher.start()
    try:
        for options, listings in (({}, 1), ({}, 1), ({"force": True}, 2)):
            assert listing.look(**options)
            assert failing.listings == listings
    finally:
        listing.watcher.stop()


def test_records_of_versions_in_memory_are_kept(store: LocalPolicyStore, reports: Reports) -> None:
    publish_samples(store, 1)
    manager = PolicyManager(VersionTable())
    listing = StoreListing(store, manager, reports)
    listing.look(force=True)
    manager.versions.move(0, VersionState.LOADING)
    manager.offer(idle_policy(0))
    publish_sample(store)
    (store.path / "v000000" / "manifest.json").unlink()
    (store.path / "v000000").rename(store.path.parent / "away")
    listing.look(force=True)
    assert listing.known == (1,)
    assert manager.versions.state(0) is VersionState.LOADED


def test_a_store_that_does_not_answer_is_retried_later_and_later_and_reported_once(
    failing: FailingStore, listing: StoreListing, reports: Reports, clock: SimpleNamespace
) -> None:
    assert listing.next_retry_s() == math.inf
    failing.fault = StoreUnavailable("the mount is gone")
    for attempt in range(4):
        assert not listing.look(force=True)
        assert failing.listings == attempt + 1
        assert listing.fault == "the mount is gone"
        wait_s = listing.next_retry_s()
        assert 0.05 * 2**attempt <= wait_s <= 0.05 * 2**attempt + LARGEST_JITTER_S
        clock.s += 0.9 * wait_s
        assert not listing.look(force=True), "the retry is not due"
        assert failing.listings == attempt + 1
        clock.s += 0.2 * wait_s
        assert listing.next_retry_s() == math.inf, "it is due"
    assert list(reports) == [("WARNING", "policy store does not answer, retrying error=the mount is gone")]
    failing.fault = None
    for _ in range(2):
        assert listing.look(force=True)
    assert list(reports)[1:] == [("INFO", f"policy store answers again store={failing.path}")]
    assert listing.fault is None
    failing.fault = StoreUnavailable("the mount is gone")
    assert not listing.look(force=True)
    assert listing.next_retry_s() <= 0.05 + LARGEST_JITTER_S, "the delay starts anew"
    assert len(reports) == 3


def test_a_store_is_retried_at_the_very_time(
    failing: FailingStore, listing: StoreListing, clock: SimpleNamespace
) -> None:
    failing.fault = StoreUnavailable("the mount is gone")
    assert not listing.look()
    failing.fault = None
    clock.s += listing.next_retry_s()
    assert listing.next_retry_s() == math.inf
    assert listing.look()


def test_any_error_of_a_store_is_retried_and_named(
    failing: FailingStore, listing: StoreListing, reports: Reports
) -> None:
    failing.fault = ValueError("no such\nbackend")
    assert not listing.look()
    assert listing.fault == "ValueError: no such backend"
    assert list(reports) == [("WARNING", f"policy store does not answer, retrying error={listing.fault}")]
