import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore, PolicyStore, Retention
from shared.store.remote_policy_store import RemotePolicyStore
from tests.support.paths import REPOSITORY
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.waiting import until


class _CountingStore(LocalPolicyStore):
    listings = 0
    fault: StoreUnavailable | None = None

    def versions(self) -> list[int]:
        self.listings += 1
        if self.fault is not None:
            raise self.fault
        return super().versions()


@pytest.fixture
def store(tmp_path: Path) -> _CountingStore:
    return _CountingStore(tmp_path / "policies", fsync=False)


@pytest.fixture
def woken() -> WakeUp:
    return WakeUp()


@pytest.fixture
def watcher(store: PolicyStore, woken: WakeUp):
    watcher = PolicyWatcher(store, woken, rescan_s=60.0, poll_s=0.1)
    yield watcher
    watcher.stop()


def _publish(store: PolicyStore) -> int:
    return store.publish(sample_files(), sample_manifest).version


def _publish_wakes(store: PolicyStore, woken: WakeUp) -> bool:
    woken.clear()
    _publish(store)
    return woken.wait(20)


def _age(directory: Path) -> None:
    """Give the directory an old time of change."""
    os.utime(directory, (1e9, 1e9))


def test_an_event_wakes_and_a_check_finds_the_version(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    watcher.start()
    assert watcher.has_events
    assert watcher.interval_s == 60.0
    assert _publish_wakes(store, woken)
    assert watcher.check()
    assert watcher.known == (0,)


def test_a_version_that_an_event_names_is_known_without_a_listing(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    watcher.start()
    watcher.check()
    for version in range(3):
        assert _publish_wakes(store, woken)
        listings = store.listings
        assert watcher.check()
        assert watcher.known == tuple(range(version + 1))
        assert store.listings == listings


def test_a_slow_listing_is_rare_while_events_arrive(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    watcher.start()
    watcher.check()
    watcher._listing_took_s = 1e6
    (store.path / ".something").mkdir()
    listings = store.listings
    assert not watcher.check()
    assert store.listings == listings
    watcher.check(force=True)
    assert store.listings == listings + 1
    watcher._listing_took_s = 1e6
    watcher.stop()
    watcher.check()
    assert store.listings == listings + 2, "without events only a listing finds versions"


def test_start_creates_the_directory_and_check_does_not(store: _CountingStore, watcher: PolicyWatcher) -> None:
    assert not watcher.check()
    assert watcher.known == ()
    assert not store.path.exists()
    watcher.start()
    assert store.path.is_dir()


def test_reads_are_no_events(store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp) -> None:
    _publish(store)
    watcher.start()
    for _ in range(50):
        store.versions()
        store.open(0).read("policy.ts")
    assert not woken.wait(0.1)


@pytest.mark.parametrize(("is_remote", "interval_s"), [(False, 0.1), (True, 3.0)])
def test_without_events_a_check_finds_the_version(tmp_path: Path, is_remote: bool, interval_s: float) -> None:
    """A remote store is polled slowly. A local one has no events before ``start``."""
    store = RemotePolicyStore("memory://watched") if is_remote else LocalPolicyStore(tmp_path, fsync=False)
    watcher = PolicyWatcher(store, rescan_s=3.0, poll_s=0.1)
    if is_remote:
        watcher.start()
    assert not watcher.has_events
    assert watcher.interval_s == interval_s
    for known in ((0,), (0, 1)):
        _publish(store)
        assert watcher.check()
        assert watcher.known == known


def test_an_untouched_directory_is_not_listed_again(store: _CountingStore, watcher: PolicyWatcher) -> None:
    _publish(store)
    _age(store.path)
    assert watcher.check()
    assert not watcher.check()
    assert store.listings == 1
    assert not watcher.check(force=True)
    assert store.listings == 2
    _publish(store)
    assert watcher.check()
    assert watcher.known == (0, 1)


def test_one_stat_shows_that_a_directory_is_untouched(
    store: _CountingStore, watcher: PolicyWatcher, tmp_path: Path
) -> None:
    assert not watcher.is_untouched(), "the store was not listed yet"
    _publish(store)
    watcher.check()
    assert not watcher.is_untouched(), "the directory may change within the same tick of the clock"
    _age(store.path)
    watcher.check()
    assert watcher.is_untouched()
    watcher.announce(1)
    assert not watcher.is_untouched()
    watcher.check()
    assert watcher.is_untouched()
    other = LocalPolicyStore(tmp_path / "other", fsync=False)
    _publish(other)
    _age(other.path)
    store.path.rename(tmp_path / "gone")
    assert not watcher.is_untouched()
    other.path.rename(store.path)
    assert not watcher.is_untouched(), "another directory with the same time of change"


@pytest.mark.parametrize(("covers_all", "intervals_s"), [(True, (5.0, 30.0)), (False, (1.0, 1.0))])
def test_checks_are_rare_if_events_cover_every_change(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, covers_all: bool, intervals_s: tuple[float, float]
) -> None:
    monkeypatch.setattr("actor.watching.policy_watcher.reports_all_changes", lambda _: covers_all)
    watcher = PolicyWatcher(store)
    watcher.start()
    watcher.check()
    assert watcher.interval_s == intervals_s[0]
    _age(store.path)
    watcher.check(force=True)
    assert watcher.interval_s == intervals_s[1]
    assert watcher.is_untouched()
    watcher._listed_at_s -= 1e3
    assert watcher.is_untouched() is covers_all, "an old listing counts only if events cover every change"
    watcher.delegate()
    assert watcher.interval_s == 1.0
    watcher.stop()


def test_a_directory_touched_just_now_is_listed_again(store: _CountingStore, watcher: PolicyWatcher) -> None:
    """A change within the same tick of the clock leaves the directory's time as it is."""
    _publish(store)
    watcher.check()
    changed_ns = store.path.stat().st_mtime_ns
    _publish(store)
    os.utime(store.path, ns=(changed_ns, changed_ns))
    assert watcher.check()
    assert watcher.known == (0, 1)


def test_a_store_that_is_removed_and_comes_back_is_watched_again(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    watcher.start()
    _publish(store)
    watcher.check()
    shutil.rmtree(store.path)
    assert watcher.check()
    assert watcher.known == ()
    assert not watcher.has_events
    assert watcher.interval_s == 0.1
    assert not store.path.exists(), "the store can still be moved back"
    _publish(store)
    until(lambda: watcher.check() or watcher.known)
    assert watcher.has_events
    assert _publish_wakes(store, woken)


def test_a_store_that_is_replaced_is_watched_again(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp, tmp_path: Path
) -> None:
    watcher.start()
    other = LocalPolicyStore(tmp_path / "other", fsync=False)
    _publish(other)
    store.path.rename(tmp_path / "gone")
    other.path.rename(store.path)
    watcher.check()
    assert watcher.known == (0,)
    assert _publish_wakes(store, woken)


def test_an_error_of_the_store_is_raised_and_keeps_the_known_versions(
    store: _CountingStore, watcher: PolicyWatcher
) -> None:
    _publish(store)
    watcher.check()
    store.fault = StoreUnavailable("not reachable")
    with pytest.raises(StoreUnavailable, match="not reachable"):
        watcher.check(force=True)
    assert watcher.known == (0,)
    store.fault = None
    assert not watcher.check(force=True)


_NO_DESCRIPTORS_LEFT = """
import os, resource, sys
from pathlib import Path
from loguru import logger
logger.remove()
logger.add(sys.stdout, format="{message}")
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.store.policy_store import LocalPolicyStore
from tests.support.sample_versions import sample_files, sample_manifest

store = LocalPolicyStore(Path(sys.argv[1]), fsync=False)
watcher = PolicyWatcher(store, rescan_s=60.0, poll_s=0.1)
os.makedirs(store.path)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
free = os.open(os.devnull, os.O_RDONLY)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
watcher.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert not watcher.has_events and watcher.interval_s == 0.1
store.publish(sample_files(), sample_manifest)
assert watcher.check() and watcher.known == (0,)
watcher.stop()
"""


def test_where_the_system_has_no_watches_left_it_polls(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_DESCRIPTORS_LEFT, str(tmp_path / "policies")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Errno 24" in done.stdout
    assert "poll_s=0.1 " in done.stdout


def test_a_delegated_watcher_takes_announcements_and_lists_rarely(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    _publish(store)
    watcher.start()
    watcher.check()
    watcher.delegate()
    watcher.delegate()
    assert watcher.is_delegated
    assert not watcher.has_events
    assert watcher.interval_s == 60.0
    woken.clear()
    listings = store.listings
    version = _publish(store)
    watcher.announce(version)
    watcher.announce(-1)
    assert watcher.check()
    assert watcher.known == (0, version)
    assert not watcher.check()
    assert store.listings == listings
    assert not woken.wait(0.0)
    assert _publish(store) == 2
    assert not watcher.check()  # not due
    assert watcher.check(force=True)
    watcher.start()
    assert not watcher.is_delegated
    _publish(store)
    assert woken.wait(5.0)


def test_a_delegated_watcher_drops_removed_versions(store: _CountingStore) -> None:
    watcher = PolicyWatcher(store, rescan_s=0.0)
    watcher.start()
    watcher.check()
    watcher.delegate()

    def goes_on() -> int:
        watcher.announce(_publish(store))
        store.sweep(Retention(3))
        assert watcher.check()
        return len(watcher.known)

    for _ in range(10):
        goes_on()
    assert until(lambda: goes_on() == 3)  # a listing is due after 500 times its own duration


def test_a_delegated_watcher_lists_a_replaced_directory(store: _CountingStore, watcher: PolicyWatcher) -> None:
    _publish(store)
    _publish(store)
    watcher.start()
    watcher.check()
    watcher.delegate()
    store.path.rename(store.path.parent / "away")
    _publish(_CountingStore(store.path, fsync=False))
    assert watcher.check()
    assert watcher.known == (0,)


def test_an_event_of_a_far_number_is_left_to_the_listing(
    store: _CountingStore, watcher: PolicyWatcher, woken: WakeUp
) -> None:
    _publish(store)
    watcher.start()
    watcher.check(force=True)
    far = store.path.parent / "v999999999999999999"
    far.mkdir()
    far.rename(store.path / far.name)
    assert woken.wait(20)
    assert not watcher.check(force=True)
    assert watcher.known == (0,)
    watcher.announce(10**18 - 1)
    _publish(store)
    until(lambda: watcher.check() or watcher.known == (0, 1))
    assert watcher.known == (0, 1), "later versions are noticed"
