"""Housekeeping beside the publishing: what is swept, what becomes durable, what happens where the store refuses."""

import threading
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from learner.publishing.store_maintenance import StoreMaintenance
from shared.store.policy_store import LocalPolicyStore, Retention
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.waiting import PATIENCE_S, until


class WatchedStore(LocalPolicyStore):
    """Tells what became durable, and refuses what it is told to."""

    def __init__(self, path: Path, refused: str = "") -> None:
        super().__init__(path)
        self.durable: list[int] = []
        self.refused = refused

    def make_durable(self, version: int) -> None:
        if self.refused == "make_durable":
            raise OSError("input/output error")
        super().make_durable(version)
        self.durable.append(version)

    def sweep(self, retention: Retention) -> list[int]:
        if self.refused == "sweep":
            raise OSError("no space left on device")
        return super().sweep(retention)


@pytest.fixture
def warnings() -> Any:
    lines: list[str] = []
    handle = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(handle)


def test_old_versions_go_while_publishing_goes_on(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path)
    keeper = StoreMaintenance(store, Retention(keep_newest=2), period_s=0.0)
    for _ in range(5):
        keeper.published(store.publish(sample_files(), sample_manifest))
    until(lambda: store.versions() == [3, 4] and store.durable[-1:] == [4])
    assert keeper.close(PATIENCE_S)


def test_the_last_version_is_durable_when_the_keeper_has_gone(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path)
    keeper = StoreMaintenance(store, Retention(keep_newest=1), period_s=3600.0)
    for _ in range(3):
        keeper.published(store.publish(sample_files(), sample_manifest))
    assert keeper.close(PATIENCE_S)
    assert keeper.close(PATIENCE_S)
    assert store.durable[-1] == 2
    assert store.versions() == [2]


def test_a_version_that_was_swept_meanwhile_is_nobodys_loss(tmp_path: Path, warnings: list[str]) -> None:
    store = WatchedStore(tmp_path)
    keeper = StoreMaintenance(store, Retention())
    keeper.published(sample_manifest(7, {}))
    assert keeper.close(PATIENCE_S)
    assert warnings == []


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("sweep", "sweeping old versions fails: OSError: no space left on device; old versions stay for now"),
        (
            "make_durable",
            "making versions durable fails: OSError: input/output error; version 0 may not outlive a power cut",
        ),
    ],
)
def test_what_the_store_refuses_is_told(tmp_path: Path, warnings: list[str], refused: str, said: str) -> None:
    store = WatchedStore(tmp_path, refused)
    keeper = StoreMaintenance(store, Retention())
    keeper.published(store.publish(sample_files(), sample_manifest))
    assert keeper.close(PATIENCE_S)
    assert said in "".join(warnings)


def test_a_store_that_hangs_does_not_keep_anybody(tmp_path: Path) -> None:
    gate = threading.Event()

    class Hanging(LocalPolicyStore):
        def make_durable(self, version: int) -> None:
            gate.wait(PATIENCE_S)

    keeper = StoreMaintenance(Hanging(tmp_path), Retention())
    keeper.published(sample_manifest(0, {}))
    assert not keeper.close(0.05)
    gate.set()
    assert keeper.close(PATIENCE_S)


def test_what_actors_advise_is_heard_without_anything_new_being_published(tmp_path: Path, warnings: list[str]) -> None:
    store = WatchedStore(tmp_path)
    keeper = StoreMaintenance(store, Retention())
    manifest = store.publish(sample_files(), sample_manifest)
    keeper.published(manifest)
    until(lambda: store.durable == [0])
    LocalPolicyStore(tmp_path).quarantine(manifest.digest, "its value is NaN", by="actor-0")
    until(lambda: len(warnings) == 1)
    assert warnings == ["version 0 was published here, and an actor has quarantined it: its value is NaN\n"]
    assert keeper.close(PATIENCE_S)
