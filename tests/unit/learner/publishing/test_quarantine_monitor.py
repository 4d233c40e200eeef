"""The learner warns of its own versions that actors quarantined."""

from pathlib import Path

from learner.publishing.quarantine_monitor import QuarantineMonitor
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import sample_files, sample_manifest


def test_each_own_version_is_warned_of_once(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = LocalPolicyStore(tmp_path)
    monitor = QuarantineMonitor(store)
    ours = [store.publish(sample_files(content), sample_manifest) for content in (b"one", b"two", b"three")]
    for manifest in ours:
        monitor.published(manifest)
    monitor.check()
    assert captured_logs.messages("WARNING") == []
    for digest, reason in ((ours[1].digest, "NaN"), ("f" * 64, "of another learner")):
        store.quarantine(digest, reason, by="actor-0")
    for _ in range(3):
        monitor.check()
    assert captured_logs.messages("WARNING") == ["an actor quarantined a version published here version=1: NaN"]
    store.quarantine(ours[2].digest, "worse", by="actor-1")
    monitor.check()
    assert captured_logs.messages("WARNING")[1:] == ["an actor quarantined a version published here version=2: worse"]


def test_store_error_is_logged_once_and_reading_is_retried(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    class Refusing(LocalPolicyStore):
        refuses = True

        def quarantined(self) -> dict[str, str]:
            if self.refuses:
                raise StoreUnavailable("the mount went away")
            return super().quarantined()

    store = Refusing(tmp_path)
    monitor = QuarantineMonitor(store)
    manifest = store.publish(sample_files(), sample_manifest)
    monitor.published(manifest)
    monitor.check()
    assert (
        "reading quarantine advice fails: StoreUnavailable: the mount went away" in captured_logs.messages("WARNING")[0]
    )
    store.quarantine(manifest.digest, "NaN", by="actor-0")
    store.refuses = False
    monitor.check()
    assert captured_logs.messages("WARNING")[-1] == "an actor quarantined a version published here version=0: NaN"
