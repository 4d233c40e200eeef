"""What becomes of a version whose load fails. The engines are stubs: tests/unit/actor/loading has the real ones."""

import shutil
import time

import pytest

from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_cache import QuarantineCache
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Reports
from actor.versions.store_listing import StoreListing
from actor.versions.version_life import VersionRecord, VersionState, VersionTable
from actor.versions.version_loading import VersionLoader
from shared.errors import (
    DigestMismatch,
    ProbeMismatch,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
)
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, version_name
from tests.support.agent_policies import no_spare
from tests.support.idle_policies import StubEngines
from tests.support.sample_versions import publish_sample


class Bench:
    """A version loader with its parts, and a store with version 0."""

    def __init__(self, store: LocalPolicyStore, cache: QuarantineCache) -> None:
        self.store = store
        self.digest = publish_sample(store).digest
        self.engines = StubEngines()
        self.reports = Reports()
        self.versions = VersionTable()
        self.listing = StoreListing(store, PolicyManager(self.versions), self.reports)
        self.quarantine = QuarantineReporter(store, cache, "actor-1", self.reports)
        self.authenticity = Authenticity()
        self.loader = VersionLoader(
            self.listing,
            self.versions,
            self.engines,
            self.authenticity,
            quarantine=self.quarantine,
            reports=self.reports,
        )

    def fail(self, error: BaseException, version: int = 0) -> VersionRecord:
        """Return the record of ``version`` after a load that raises ``error``."""
        self.engines.error = error
        assert self.loader.load(version, no_spare) is None
        (record,) = self.versions.failures()
        assert record.version == version
        return record

    def shared(self) -> dict[str, str]:
        """Return the advice in the store after what was collected is shared."""
        self.quarantine.share(lambda digest, reason: None)
        return self.store.quarantined()


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> QuarantineCache:
    return QuarantineCache(tmp_path_factory.mktemp("cache") / "quarantine")


@pytest.fixture
def bench(store: LocalPolicyStore, cache: QuarantineCache) -> Bench:
    return Bench(store, cache)


def test_a_version_that_loads_is_returned_and_sets_the_run(bench: Bench) -> None:
    policy = bench.loader.load(0, no_spare)
    assert policy is not None
    assert policy.version == 0
    assert bench.versions.state(0) is VersionState.LOADING, "it is loaded when it has a role"
    assert bench.authenticity.run_id == "run"
    assert list(bench.reports) == []


def test_engines_that_refused_it_are_reported(bench: Bench) -> None:
    bench.engines.refusals = (("compile", "no\nway"),)
    assert bench.loader.load(0, no_spare) is not None
    assert list(bench.reports) == [("WARNING", "version 0: onnx taken; compile said: no way")]


def test_a_permanent_fault_quarantines_the_content_here_and_in_the_store(bench: Bench) -> None:
    record = bench.fail(ProbeMismatch("row 3\ndiffers"))
    assert (record.state, record.quarantined, record.retry_at_s) == (VersionState.FAILED, True, None)
    assert bench.versions.quarantine_reason(bench.digest) == "ProbeMismatch: row 3 differs"
    assert bench.shared() == {bench.digest: "ProbeMismatch: row 3 differs"}
    assert bench.quarantine.cached_reason(bench.digest) is None
    assert list(bench.reports) == [
        ("ERROR", "policy version 0 quarantined reason=ProbeMismatch: row 3 differs"),
    ]
    assert bench.authenticity.run_id is None


def test_bytes_that_do_not_match_blame_this_copy_only(bench: Bench) -> None:
    assert bench.fail(DigestMismatch("weights differ")).quarantined
    assert bench.versions.quarantine_reason(bench.digest) is None
    assert bench.shared() == {}


def test_a_version_that_cannot_be_opened_has_no_content_to_blame(bench: Bench) -> None:
    (bench.store.path / version_name(0) / "manifest.json").write_bytes(b"{}")
    assert bench.loader.load(0, no_spare) is None
    (record,) = bench.versions.failures()
    assert record.quarantined
    assert record.reason is not None
    assert record.reason.startswith("ManifestError: ")
    assert bench.shared() == {}


def test_an_error_of_this_actor_is_not_shared(bench: Bench) -> None:
    assert bench.fail(ZeroDivisionError("who would have thought")).quarantined
    reason = "ZeroDivisionError: who would have thought"
    assert bench.versions.quarantine_reason(bench.digest) == reason
    assert bench.shared() == {}


@pytest.mark.parametrize("error", [TransientLoadError("late"), StoreUnavailable("late"), MemoryError("late")])
def test_a_transient_fault_is_retried_later_and_later_and_reported_once(bench: Bench, error: BaseException) -> None:
    reason = f"{type(error).__name__}: late"
    for attempt in range(1, 4):
        before_s = time.monotonic()
        record = bench.fail(error)
        assert (record.attempts, record.quarantined, record.reason) == (attempt, False, reason)
        assert record.retry_at_s is not None
        least_s = 0.05 * 2 ** (attempt - 1)
        assert before_s + least_s <= record.retry_at_s <= time.monotonic() + least_s + 0.05
        assert list(bench.reports) == [("WARNING", f"policy version 0 will be retried reason={reason}")]
    assert bench.versions.quarantine_reason(bench.digest) is None
    assert bench.shared() == {}


def test_a_removed_version_is_no_report_and_the_store_is_listed_again(bench: Bench) -> None:
    publish_sample(bench.store)
    bench.listing.watcher.start()
    try:
        bench.listing.look()
        assert bench.listing.known == (0, 1)
        shutil.rmtree(bench.store.path / version_name(1))
        record = bench.fail(VersionNotFound("no such version"), version=1)
    finally:
        bench.listing.watcher.stop()
    assert not record.quarantined
    assert list(bench.reports) == []
    assert bench.listing.known == (0,)


def test_a_content_quarantined_in_this_actor_is_not_loaded_again(bench: Bench) -> None:
    bench.fail(ProbeMismatch("row 3 differs"))
    again = publish_sample(bench.store)
    assert again.digest == bench.digest
    bench.engines.error = AssertionError("it must not be loaded")
    assert bench.loader.load(again.version, no_spare) is None
    newest = bench.versions.failures()[0]
    assert (newest.version, newest.quarantined, newest.reason) == (again.version, True, "ProbeMismatch: row 3 differs")
    assert bench.reports[-1] == (
        "ERROR",
        "policy version 1 refused reason=content is quarantined: ProbeMismatch: row 3 differs",
    )


def test_a_content_that_failed_in_an_earlier_actor_is_not_loaded(bench: Bench, cache: QuarantineCache) -> None:
    cache.add(bench.digest, "NaN", "actor-0")
    record = bench.fail(AssertionError("it must not be loaded"))
    assert record.reason == "NaN (found by an earlier actor on this machine)"
    assert bench.versions.quarantine_reason(bench.digest) == record.reason
    assert bench.shared() == {}


def test_errors_that_end_a_process_are_not_caught(bench: Bench) -> None:
    bench.engines.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.loader.load(0, no_spare)
