import json
from pathlib import Path

import pytest

from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore
from shared.store.store_notes import LocalNotes
from tests.support.sample_versions import publish_samples

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def store(store: LocalPolicyStore) -> LocalPolicyStore:
    publish_samples(store, 1)
    return store


@pytest.fixture
def cache(tmp_path: Path) -> QuarantineCache:
    return QuarantineCache(tmp_path / "quarantine")


@pytest.fixture
def reporter(store: LocalPolicyStore, cache: QuarantineCache) -> QuarantineReporter:
    return QuarantineReporter(store, cache, "actor-1", Reports())


def shared(reporter: QuarantineReporter) -> list[tuple[str, str]]:
    """Share what was collected; return what the reporter passed on."""
    notified: list[tuple[str, str]] = []
    reporter.share(lambda digest, reason: notified.append((digest, reason)))
    return notified


def test_a_failure_to_load_is_shared_once_and_not_cached(
    reporter: QuarantineReporter, store: LocalPolicyStore, cache: QuarantineCache
) -> None:
    reporter.failed_to_load(ONE, "ProbeMismatch: row 3")
    assert store.quarantined() == {}, "only the loader thread writes"
    assert shared(reporter) == [(ONE, "ProbeMismatch: row 3")]
    assert shared(reporter) == []
    assert store.quarantined() == {ONE: "ProbeMismatch: row 3"}
    assert json.loads((store.path / "quarantine" / f"{ONE}.json").read_bytes())["by"] == "actor-1"
    assert cache.reason(ONE) is None


def test_a_failure_while_acting_is_cached_for_later_actors(
    reporter: QuarantineReporter, store: LocalPolicyStore, cache: QuarantineCache, tmp_path: Path
) -> None:
    reporter.failed_while_acting(TWO, "NaN")
    assert reporter.cached_reason(TWO) is None
    assert shared(reporter) == [(TWO, "NaN")]
    assert store.quarantined() == {TWO: "NaN"}
    assert cache.reason(TWO) == "NaN"
    assert reporter.cached_reason(TWO) == "NaN (found by an earlier actor on this machine)"
    assert reporter.cached_reason(ONE) is None
    (note,) = (tmp_path / "quarantine").glob("*.json")
    assert json.loads(note.read_bytes())["by"] == "actor-1"


def test_the_cache_is_written_later_when_a_full_disk_has_room_again(
    reporter: QuarantineReporter, cache: QuarantineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailable("no space left on the device")

    with monkeypatch.context() as full:
        full.setattr(LocalNotes, "write", refuse)
        full.setattr(LocalNotes, "create", refuse)
        reporter.ended_processes(ONE, "crash")
        reporter.failed_while_acting(TWO, "NaN")
        shared(reporter)
    assert (cache.reason(ONE), cache.reason(TWO)) == (None, None)
    shared(reporter)
    assert (cache.reason(ONE), cache.reason(TWO)) == ("crash", "NaN")


def test_failures_are_shared_without_a_cache(store: LocalPolicyStore) -> None:
    reporter = QuarantineReporter(store, None, "actor-1", Reports())
    reporter.failed_while_acting(ONE, "NaN")
    assert shared(reporter) == [(ONE, "NaN")]
    assert store.quarantined() == {ONE: "NaN"}
    assert reporter.cached_reason(ONE) is None


def test_a_store_that_takes_no_advice_is_reported_and_stops_no_other_failure(
    store: LocalPolicyStore, cache: QuarantineCache
) -> None:
    class Refusing(LocalPolicyStore):
        def quarantine(self, digest: str, reason: str, by: str) -> None:
            if digest == ONE:
                raise StoreUnavailable("read-only file system")
            super().quarantine(digest, reason, by)

    reports = Reports()
    reporter = QuarantineReporter(Refusing(store.path, fsync=False), cache, "actor-1", reports)
    reporter.failed_while_acting(ONE, "NaN")
    reporter.failed_to_load(TWO, "ProbeMismatch")
    assert shared(reporter) == [(ONE, "NaN"), (TWO, "ProbeMismatch")]
    assert list(reports) == [("WARNING", "quarantine not shared digest=111111111111 error=read-only file system")]
    assert store.quarantined() == {TWO: "ProbeMismatch"}
    assert cache.reason(ONE) == "NaN"


def test_the_newest_thousand_failures_are_kept(store: LocalPolicyStore) -> None:
    reporter = QuarantineReporter(store, None, "actor-1", Reports())
    for number in range(1001):
        reporter.failed_while_acting("0" * 64, str(number))
    assert [reason for _, reason in shared(reporter)] == [str(number) for number in range(1, 1001)]


def test_a_content_that_ended_processes_is_cached_before_anything_is_shared(
    reporter: QuarantineReporter, store: LocalPolicyStore, cache: QuarantineCache
) -> None:
    reporter.ended_processes(ONE, "did not return")
    assert cache.reason(ONE) == "did not return"
    assert store.quarantined() == {}
    assert shared(reporter) == [(ONE, "did not return")]
    assert store.quarantined() == {ONE: "did not return"}
