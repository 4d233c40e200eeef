"""Store maintenance: sweeps, syncs, and errors of the store."""

import threading
from pathlib import Path

import pytest

from learner.publishing.store_maintenance import QuarantineMonitor, StoreMaintenance
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore, Retention
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.waiting import PATIENCE_S, until


class WatchedStore(LocalPolicyStore):
    """Records the versions made durable; ``refused`` names the method that raises."""

    def __init__(self, path: Path, refused: str = "") -> None:
        super().__init__(path)
        self.durable: list[int] = []
        self.refused = refused

    def make_durable(self, version: int) -> None:
        if self.refused == "make_durable":
            raise OSError("disk error")
        super().make_durable(version)
        self.durable.append(version)

    def sweep(self, retention: Retention) -> list[int]:
        if self.refused == "sweep":
            raise OSError("disk error")
        return super().sweep(retention)


def test_old_versions_are_swept_during_publishing(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path)
    maintenance = StoreMaintenance(store, Retention(keep_newest=2), period_s=0.0)
    for _ in range(5):
        maintenance.published(store.publish(sample_files(), sample_manifest))
    until(lambda: store.versions() == [3, 4] and store.durable[-1:] == [4])
    assert maintenance.close(PATIENCE_S)


def test_close_makes_the_last_version_durable(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path)
    maintenance = StoreMaintenance(store, Retention(keep_newest=1), period_s=3600.0)
    for _ in range(3):
        maintenance.published(store.publish(sample_files(), sample_manifest))
    assert maintenance.close(PATIENCE_S)
    assert maintenance.close(PATIENCE_S)
    assert store.durable[-1] == 2
    assert store.versions() == [2]


def test_version_swept_before_its_sync_is_not_an_error(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = WatchedStore(tmp_path)
    maintenance = StoreMaintenance(store, Retention())
    maintenance.published(sample_manifest(7, {}))
    assert maintenance.close(PATIENCE_S)
    assert captured_logs.messages("WARNING") == []


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("sweep", "sweeping old versions fails: OSError: disk error; old versions are kept until the next sweep"),
        ("make_durable", "making versions durable fails: OSError: disk error; version 0 may be lost in a power cut"),
    ],
)
def test_store_errors_are_logged(tmp_path: Path, captured_logs: CapturedLogs, refused: str, said: str) -> None:
    store = WatchedStore(tmp_path, refused)
    maintenance = StoreMaintenance(store, Retention())
    maintenance.published(store.publish(sample_files(), sample_manifest))
    assert maintenance.close(PATIENCE_S)
    assert said in "".join(captured_logs.messages("WARNING"))


def test_close_gives_up_on_a_hanging_store(tmp_path: Path) -> None:
    gate = threading.Event()

    class Hanging(LocalPolicyStore):
        def make_durable(self, version: int) -> None:
            gate.wait(PATIENCE_S)

    maintenance = StoreMaintenance(Hanging(tmp_path), Retention())
    maintenance.published(sample_manifest(0, {}))
    assert not maintenance.close(0.05)
    gate.set()
    assert maintenance.close(PATIENCE_S)


def test_quarantine_advice_is_read_without_new_versions(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = WatchedStore(tmp_path)
    maintenance = StoreMaintenance(store, Retention())
    manifest = store.publish(sample_files(), sample_manifest)
    maintenance.published(manifest)
    until(lambda: store.durable == [0])
    LocalPolicyStore(tmp_path).quarantine(manifest.digest, "its value is NaN", by="actor-0")
    until(lambda: len(captured_logs.messages("WARNING")) == 1)
    assert captured_logs.messages("WARNING") == [
        "an actor quarantined a version published here version=0: its value is NaN"
    ]
    assert maintenance.close(PATIENCE_S)


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
