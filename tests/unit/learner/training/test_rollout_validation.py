"""Versions that rollouts claim to be acted by: only published ones, with their digests, are accepted."""

from pathlib import Path

from learner.training.rollout_validation import find_version_fault
from shared.store.policy_store import LocalPolicyStore
from tests.support.learner_loops import LoopRun


def test_unpublished_versions_and_wrong_digests_are_faults(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path / "policies", fsync=False)
    before = LoopRun(tmp_path, store=store)
    before.loop.publish()
    before.publisher.close()
    run = LoopRun(tmp_path, store=store)
    old = store.open(0).manifest.digest

    def fault(version: int, digest: str) -> str:
        return find_version_fault(run.publisher, version, digest) or ""

    assert not fault(0, old)  # an earlier learner published it
    assert "never published" in fault(1, old)
    run.loop.learner.policy.value_scale.fill_(2.0)
    run.loop.publish()
    new = store.open(1).manifest.digest
    assert not fault(0, old)
    assert not fault(1, new)
    assert "has digest" in fault(1, old)
    assert "never published" in fault(2, new)
    run.publisher.close()
