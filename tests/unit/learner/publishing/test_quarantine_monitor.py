"""What a learner hears of its own versions."""

from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from learner.publishing.quarantine_monitor import QuarantineMonitor
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore
from tests.support.sample_versions import sample_files, sample_manifest


@pytest.fixture
def warnings() -> Any:
    lines: list[str] = []
    handle = logger.add(lambda line: lines.append(str(line).strip()), format="{message}", level="WARNING")
    yield lines
    logger.remove(handle)


def test_each_version_of_ones_own_is_warned_of_once(tmp_path: Path, warnings: list[str]) -> None:
    store = LocalPolicyStore(tmp_path)
    watch = QuarantineMonitor(store)
    ours = [store.publish(sample_files(content), sample_manifest) for content in (b"one", b"two", b"three")]
    for manifest in ours:
        watch.published(manifest)
    watch.check()
    assert warnings == []
    for digest, reason in ((ours[1].digest, "NaN"), ("f" * 64, "of another learner")):
        store.quarantine(digest, reason, by="actor-0")
    for _ in range(3):
        watch.check()
    assert warnings == ["version 1 was published here, and an actor has quarantined it: NaN"]
    store.quarantine(ours[2].digest, "worse", by="actor-1")
    watch.check()
    assert warnings[1:] == ["version 2 was published here, and an actor has quarantined it: worse"]


def test_a_store_that_does_not_answer_is_told_of_once_and_asked_again(tmp_path: Path, warnings: list[str]) -> None:
    class Refusing(LocalPolicyStore):
        refuses = True

        def quarantined(self) -> dict[str, str]:
            if self.refuses:
                raise StoreUnavailable("the mount went away")
            return super().quarantined()

    store = Refusing(tmp_path)
    watch = QuarantineMonitor(store)
    manifest = store.publish(sample_files(), sample_manifest)
    watch.published(manifest)
    watch.check()
    assert "reading quarantine advice fails: StoreUnavailable: the mount went away" in warnings[0]
    store.quarantine(manifest.digest, "NaN", by="actor-0")
    store.refuses = False
    watch.check()
    assert warnings[-1] == "version 0 was published here, and an actor has quarantined it: NaN"
