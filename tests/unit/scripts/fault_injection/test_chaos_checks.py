"""Checks of a chaos run: each of them can fail."""

import os
import shutil
import time
from pathlib import Path

import pytest
from loguru import logger

from actor.acting.adoption_log import AdoptionLog
from actor.loading.loaded_policy import LoadedPolicy
from learner.training.checkpoint import CheckpointStore
from scripts.fault_injection.invariants import Invariants, LostWork
from scripts.fault_injection.processes import InferenceActor
from scripts.fault_injection.published import Published, RunLogs, Tail, tracebacks
from shared.process.log import set_up_logging
from shared.run.progress import Progress
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore, UsedNumbers, version_name
from shared.store.version_files import mark_name
from tests.support.sample_versions import SIGNATURE, sample_files, sample_manifest


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return LocalPolicyStore(tmp_path / "policies", used_numbers=UsedNumbers(tmp_path / "numbers"))


@pytest.fixture
def published(store: LocalPolicyStore, invariants: Invariants) -> Published:
    numbers = UsedNumbers(store.path.parent / "numbers")
    return Published(lambda: [store.path, store.path.parent / "away"], invariants, numbers)


def _publish(store: LocalPolicyStore, content: bytes) -> str:
    return store.publish(sample_files(content), sample_manifest).digest


def _staged(store: LocalPolicyStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path / version_name(0), tmp_path / "staged"))


def test_only_versions_of_the_learner_may_act(
    store: LocalPolicyStore, published: Published, invariants: Invariants, tmp_path: Path
) -> None:
    digest = _publish(store, b"good")
    published.check()
    assert published.problem_of(0, digest) is None
    assert published.problem_of(0, None) is None
    assert published.commit_corrupted(store.path, _staged(store, tmp_path), 1, "empty weights")
    published.check()
    wrong = ((0, "0" * 64, "with digest"), (1, digest, "is corrupted"), (2, digest, "not published"))
    for number, acted, reason in wrong:
        assert reason in (published.problem_of(number, acted) or "")
    assert invariants.is_good


def test_a_used_number_is_not_committed_again(store: LocalPolicyStore, published: Published, tmp_path: Path) -> None:
    _publish(store, b"good")
    staged = _staged(store, tmp_path)
    assert not published.commit_corrupted(store.path, staged, 0, "a kind")
    (store.path / mark_name(5)).touch()
    assert not published.commit_corrupted(store.path, staged, 4, "a kind"), "a higher number was used"
    assert published.commit_corrupted(store.path, staged, 6, "a kind")


def test_a_number_that_is_used_twice_is_a_violation(
    store: LocalPolicyStore, published: Published, invariants: Invariants
) -> None:
    _publish(store, b"good")
    published.check()
    store.path.rename(store.path.parent / "away")
    other = LocalPolicyStore(store.path)
    other.publish(sample_files(b"good"), sample_manifest)
    published.check()
    assert invariants.is_good, "the same content under its own number"
    shutil.rmtree(other.path)
    LocalPolicyStore(store.path).publish(sample_files(b"another"), sample_manifest)
    published.check()
    assert not invariants.is_good


@pytest.mark.parametrize(("versions", "is_good"), [("[0]", True), ("[0, 1]", False)])
def test_every_version_that_acted_in_an_episode_is_checked(
    published: Published, invariants: Invariants, tmp_path: Path, versions: str, is_good: bool
) -> None:
    digest = _publish(LocalPolicyStore(tmp_path / "policies"), b"good")
    actor = InferenceActor.__new__(InferenceActor)
    actor.name, actor.first_acts_s = "inference-0", None
    (tmp_path / "output").write_text("version 0 acts now\n")
    (tmp_path / "log").write_text(f'{{"episode":1,"version":0,"versions":{versions},"digest":"{digest}"}}\n')
    actor._output, actor._episodes = Tail(tmp_path / "output"), Tail(tmp_path / "log")
    actor.check(published, invariants)
    assert invariants.is_good is is_good
    assert actor.first_acts_s is not None
    actor.close()


def test_a_tail_returns_whole_lines_once_and_follows_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail(path)
    assert tail.lines() == []
    with path.open("ab", buffering=0) as file:
        file.write(b"one\ntw")
        assert tail.lines() == [b"one"]
        file.write(b"o\n")
        path.rename(tmp_path / "a.1.log")
        path.write_bytes(b"three\n")
        assert tail.lines() == [b"two", b"three"]
    assert tail.lines() == []
    tail.close()


def test_tracebacks_are_found_in_logs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "learner.log").write_text("fine\nTraceback (most recent call last):\n")
    (tmp_path / "train-1.txt").write_text("Traceback (most recent call last):\n")
    assert tracebacks([tmp_path]) == ["learner.log:2", "train-1.txt:1"]


def test_findings_are_written_as_json(tmp_path: Path, invariants: Invariants) -> None:
    invariants.count_fault("kill -9 learner")
    invariants.check("rollout accounts balance", False, "one is missing")
    invariants.write(tmp_path / "chaos.json", seed=3)
    text = (tmp_path / "chaos.json").read_text()
    assert '"good": false' in text
    assert "one is missing" in text


SAVED_UNIX_S = time.time() + 3600
"""Time of the newest intact checkpoint, later than anything that a test does."""


@pytest.fixture
def lost_work(run: RunDirectory, invariants: Invariants) -> LostWork:
    path = CheckpointStore(run.checkpoints).save(1, {})
    os.utime(path, (SAVED_UNIX_S, SAVED_UNIX_S))
    return LostWork(run, invariants)


def _kill(run: RunDirectory, lost_work: LostWork, *, updated_s: float) -> None:
    """Kill a learner whose last update was ``updated_s`` after the checkpoint."""
    run.write_progress(Progress(phase="training", updated_unix_s=SAVED_UNIX_S + updated_s))
    lost_work.learner_killed()


@pytest.mark.parametrize(("updated_s", "lost_s"), [(-1.0, 0.0), (0.75, 0.75), (2.5, 2.5), (3.5, None), (60.0, None)])
def test_a_learner_may_lose_one_checkpoint_interval_of_work(
    run: RunDirectory, lost_work: LostWork, invariants: Invariants, updated_s: float, lost_s: float | None
) -> None:
    _kill(run, lost_work, updated_s=updated_s)
    assert invariants.is_good is (lost_s is not None)
    measured_s = invariants.seconds("at most one checkpoint interval is lost")
    assert measured_s == ([] if lost_s is None else [pytest.approx(lost_s, abs=1e-3)])


def test_work_before_a_resume_is_not_lost_again(run: RunDirectory, lost_work: LostWork, invariants: Invariants) -> None:
    lost_work.resumed_unix_s = SAVED_UNIX_S + 10.0
    _kill(run, lost_work, updated_s=9.0)
    _kill(run, lost_work, updated_s=11.0)
    assert invariants.is_good
    assert invariants.seconds("at most one checkpoint interval is lost") == [0.0, pytest.approx(1.0, abs=1e-3)]


def test_a_broken_checkpoint_saves_no_work(run: RunDirectory, lost_work: LostWork, invariants: Invariants) -> None:
    newest = CheckpointStore(run.checkpoints).save(2, {})
    newest.write_bytes(b"broken")
    os.utime(newest, (SAVED_UNIX_S + 59, SAVED_UNIX_S + 59))
    _kill(run, lost_work, updated_s=60.0)
    assert not invariants.is_good


@pytest.mark.parametrize("how", ["still", "since the checkpoint", "by a broken checkpoint"])
def test_lost_work_of_a_disturbed_learner_is_not_judged(
    run: RunDirectory, lost_work: LostWork, invariants: Invariants, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("scripts.fault_injection.invariants.time.time", lambda: SAVED_UNIX_S + 1.0)
    if how == "by a broken checkpoint":
        lost_work.checkpoint_broken()
    else:
        lost_work.begin_disturbance()
    if how == "since the checkpoint":
        lost_work.end_disturbance()
    _kill(run, lost_work, updated_s=60.0)
    lost_work.add_note()
    assert invariants.is_good
    assert invariants.seconds("at most one checkpoint interval is lost") == []
    assert "max 60.00 s" in invariants.notes["work lost with a learner"]


def test_a_disturbance_before_the_checkpoint_excuses_no_lost_work(
    run: RunDirectory, lost_work: LostWork, invariants: Invariants
) -> None:
    lost_work.begin_disturbance()
    lost_work.end_disturbance()
    _kill(run, lost_work, updated_s=60.0)
    assert not invariants.is_good


def test_adoptions_and_resumes_are_read_from_the_log(
    run: RunDirectory, store: LocalPolicyStore, published: Published, invariants: Invariants
) -> None:
    digest = _publish(store, b"good")
    began_unix_s = time.time()
    set_up_logging("learner", run.logs, terminal_level=None)
    logger.info("resumed at update {} after {} steps", 7, 700)
    for version in range(2):
        AdoptionLog("actor-0").changed(LoadedPolicy(version, digest, SIGNATURE, None, "onnx", b""))  # type: ignore[arg-type]
    logger.remove()
    logs = RunLogs(run)
    logs.check(published, invariants)
    logs.close()
    assert logs.resumed == [7]
    assert logs.adoptions == 2
    assert not invariants.is_good, "version 1 was not published"
    assert began_unix_s - 0.002 <= logs.resumed_unix_s <= time.time()
