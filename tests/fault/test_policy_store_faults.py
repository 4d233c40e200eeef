"""Publishers and sweepers that are killed, stopped, or race: readers find whole versions, and numbers are unique.

Processes and signals are real; ``store_processes`` chooses the system call at which they are killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from learner.training.checkpoint import CheckpointStore
from shared.errors import StoreError, StoreUnavailable, VersionNotFound
from shared.store.policy_store import LocalPolicyStore, Retention, UsedNumbers, version_name
from tests.support import store_processes
from tests.support.full_disk import file_size_limit
from tests.support.paths import REPOSITORY
from tests.support.sample_versions import publish_samples, sample_files, sample_manifest

ENOUGH_STEPS = 120
FAR = 999_999_999_999_999_999


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", store_processes.__name__, *map(str, arguments)]


def publisher(path: Path) -> LocalPolicyStore:
    return LocalPolicyStore(path / "policies", used_numbers=UsedNumbers(path / "numbers"))


@pytest.fixture
def template(tmp_path: Path) -> LocalPolicyStore:
    """A store with two versions, of which processes get copies."""
    store = LocalPolicyStore(tmp_path / "template")
    publish_samples(store, 2)
    return store


@pytest.mark.parametrize("comes_back", [False, True])
def test_numbers_are_unique_after_the_store_was_removed_between_publishers(tmp_path: Path, comes_back: bool) -> None:
    """A learner is killed and its store removed; the next learner creates a new one. The old one may come back."""

    publish_samples(publisher(tmp_path), 3)
    (tmp_path / "policies").rename(tmp_path / "away")
    anew = publisher(tmp_path)
    publish_samples(anew, 2)
    assert anew.versions() == [3, 4]
    if comes_back:
        shutil.rmtree(tmp_path / "policies")
        (tmp_path / "away").rename(tmp_path / "policies")
    last = publisher(tmp_path)
    publish_samples(last, 1)
    assert last.newest() == 5
    assert [path.name for path in (tmp_path / "numbers").iterdir()] == [".highest-000005"]


def test_numbers_that_another_publisher_used_in_a_removed_store_are_not_reused(tmp_path: Path) -> None:
    learner, rollback = publisher(tmp_path), publisher(tmp_path)
    publish_samples(learner, 2)
    publish_samples(rollback, 3)
    (tmp_path / "policies").rename(tmp_path / "away")
    publish_samples(learner, 1)
    assert learner.versions() == [5]


def test_a_far_number_does_not_silence_a_learner(tmp_path: Path) -> None:
    """Its directory may come before the first version, between two of one learner, or between two learners."""
    for when in range(4):
        run = tmp_path / str(when)
        learner, published = publisher(run), []
        for step in range(4):
            if step == when:
                (run / "policies" / f"v{FAR}").mkdir(parents=True)
                (run / "policies" / f".highest-{FAR}").touch()
            if step == 2:
                learner = publisher(run)
            published.append(learner.publish(sample_files(), sample_manifest).version)
        assert published == [0, 1, 2, 3]
        assert learner.versions() == LocalPolicyStore(run / "policies").versions() == [0, 1, 2, 3]
        assert [path.name for path in (run / "numbers").iterdir()] == [".highest-000003"]


def test_a_run_that_an_earlier_release_took_to_the_last_number_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / f".highest-{FAR}").touch()
    with pytest.raises(StoreError, match="use a new store: the highest used number"):
        publish_samples(publisher(tmp_path), 1)


def read_all(store: LocalPolicyStore) -> dict[int, bytes]:
    """Return the weights of every version, after all of its files were read and verified."""
    found = {}
    for number in store.versions():
        try:
            version = store.open(number)
        except VersionNotFound:  # a sweeper began to remove it
            continue
        found[number] = {name: version.read(name) for name in version.manifest.files}["weights.safetensors"]
    return found


def killed_at_every_step(act: str, template: Path, tmp_path: Path) -> list[LocalPolicyStore]:
    """Return copies of the store ``template``; the process doing ``act`` on each was killed one step later."""
    paths = [tmp_path / f"killed-{step:03d}" for step in range(ENOUGH_STEPS)]
    for path in paths:
        shutil.copytree(template, path)
    done = subprocess.run(command("kill", act, *paths), cwd=REPOSITORY, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["exit_code"] == 0, done.stderr
    return [LocalPolicyStore(path, abandon_after_s=0.0) for path in paths[: report["killed"]]]


def leftovers(store: LocalPolicyStore) -> set[str]:
    return {path.name for path in store.path.rglob("*") if path.name.startswith((".tmp-", ".trash-"))}


def test_a_publisher_killed_at_any_step_leaves_a_whole_version_or_none(
    tmp_path: Path, template: LocalPolicyStore
) -> None:
    stores = killed_at_every_step("publish", template.path, tmp_path)
    committed = 0
    for store in stores:
        found = read_all(store)
        assert found in ({0: b"weights 0", 1: b"weights 1"}, {0: b"weights 0", 1: b"weights 1", 2: b"killed"})
        committed += len(found) == 3
        store.sweep(Retention())
        assert leftovers(store) == set()
        assert read_all(store) == found
        successor = LocalPolicyStore(store.path).publish(sample_files(b"next"), sample_manifest).version
        assert successor > max(found)
        assert read_all(store) == {**found, successor: b"next"}
    assert 0 < committed < len(stores) - 15  # some were killed after the rename, most before


def test_a_learner_killed_at_any_step_of_a_checkpoint_leaves_it_or_the_previous_one(tmp_path: Path) -> None:
    template = CheckpointStore(tmp_path / "template")
    for step in (1, 2):
        template.save(step, {"step": step})
    newest = []
    for store in killed_at_every_step("checkpoint", tmp_path / "template", tmp_path):
        checkpoints = CheckpointStore(store.path)
        step, payload = checkpoints.load_newest()
        assert payload == {"step": step}
        newest.append(step)
        checkpoints.sweep()
        checkpoints.save(4, {"step": 4})
        assert leftovers(store) == set()
        assert checkpoints.load_newest() == (4, {"step": 4})
    assert newest == sorted(newest)
    assert set(newest) == {2, 3}


def test_a_number_of_a_killed_publisher_is_not_reused_after_its_directory_was_removed(
    tmp_path: Path, template: LocalPolicyStore
) -> None:
    for store in killed_at_every_step("publish", template.path, tmp_path):
        was_committed = store.newest() == 2
        if was_committed:
            shutil.rmtree(store.path / version_name(2))
        assert store.publish(sample_files(), sample_manifest).version >= (3 if was_committed else 2)


def test_the_next_sweeper_finishes_the_work_of_a_killed_one(tmp_path: Path, template: LocalPolicyStore) -> None:
    for content in (b"weights 2", b"weights 3"):
        template.publish(sample_files(content), sample_manifest)
    (template.path / ".pending" / ".tmp-0123456789abcdef").mkdir()
    (template.path / ".pending" / ".tmp-0123456789abcdef" / "policy.ts").write_bytes(b"half")
    for store in killed_at_every_step("sweep", template.path, tmp_path):
        found = read_all(store)
        assert {2: b"weights 2", 3: b"weights 3"}.items() <= found.items()
        assert store.sweep(Retention(keep_newest=2)) == [v for v in found if v < 2]
        assert leftovers(store) == set()
        assert read_all(store) == {2: b"weights 2", 3: b"weights 3"}
        assert store.publish(sample_files(), sample_manifest).version == 4


def test_an_actor_killed_while_it_writes_advice_leaves_it_whole_or_none(
    tmp_path: Path, template: LocalPolicyStore
) -> None:
    for store in killed_at_every_step("quarantine", template.path, tmp_path):
        assert store.quarantined() in ({}, {"a" * 64: "probe"})
        store.quarantine("a" * 64, "probe", by="survivor")
        assert store.quarantined() == {"a" * 64: "probe"}
        store.sweep(Retention())
        assert leftovers(store) == set()


@contextmanager
def stopped_at(step: int, act: str, store: LocalPolicyStore) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that stopped itself in the middle of ``act``."""
    process = subprocess.Popen(command("stop", act, store.path, step), cwd=REPOSITORY)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_write_of_a_killed_publisher_is_swept_and_that_of_a_stopped_one_is_not(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path / "policies", abandon_after_s=0.0)
    publish_samples(store, 1)
    with stopped_at(8, "publish", store) as publisher:
        assert len(leftovers(store)) == 1
        store.sweep(Retention())
        assert len(leftovers(store)) == 1
        assert read_all(store) == {0: b"weights 0"}
        publish_samples(store, 1)  # a second publisher does not wait, and takes the number
        publisher.send_signal(signal.SIGCONT)
        assert publisher.wait() == 0
    assert read_all(store) == {0: b"weights 0", 1: b"weights 0", 2: b"killed"}
    with stopped_at(8, "publish", store) as publisher:
        publisher.kill()
        publisher.wait()
        assert len(leftovers(store)) == 1
        store.sweep(Retention())
        assert leftovers(store) == set()


def test_racing_publishers_get_different_numbers(tmp_path: Path) -> None:
    path, count = tmp_path / "policies", 40
    racers = [
        subprocess.Popen(
            command("publish", path, name, count),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two", "three")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    numbers: list[int] = []
    seen_while_racing = read_while(LocalPolicyStore(path), racers)
    for racer in racers:
        output, _ = racer.communicate()
        assert racer.returncode == 0
        published = json.loads(output)
        assert published == sorted(published)
        numbers += published
    assert len(set(numbers)) == len(numbers) == 3 * count
    store = LocalPolicyStore(path)
    assert store.newest() == max(numbers)
    assert seen_while_racing <= set(numbers)
    contents = read_all(store)
    assert sorted(contents) == sorted(numbers)[-5:]
    assert len(set(contents.values())) == 5


def read_while(store: LocalPolicyStore, processes: list[subprocess.Popen[str]]) -> set[int]:
    """Read every version until ``processes`` end: each is whole, or was swept meanwhile."""
    seen = set()
    while any(process.poll() is None for process in processes):
        for number in store.versions():
            try:
                version = store.open(number)
                for name in version.manifest.files:
                    version.read(name)
            except VersionNotFound:
                continue
            seen.add(number)
    return seen


def test_a_file_that_does_not_fit_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path / "policies")
    publish_samples(store, 1)
    with (
        file_size_limit(10_000),
        pytest.raises(StoreUnavailable, match=r"could not write .*; free some space") as caught,
    ):
        store.publish(sample_files(b"x" * 20_000), sample_manifest)
    assert isinstance(caught.value.__cause__, OSError)
    assert leftovers(store) == set()
    assert read_all(store) == {0: b"weights 0"}
    publish_samples(store, 1)
    assert store.newest() == 1


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    store = LocalPolicyStore(tmp_path / "policies")
    publish_samples(store, 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        publish_samples(store, 1)
        read_all(store)
        store.sweep(Retention(keep_newest=1))
        store.quarantine(store.open(store.versions()[-1]).manifest.digest, "probe", by="test")
        store.quarantined()
        with pytest.raises(VersionNotFound):
            store.open(10_000)
        with pytest.raises(ZeroDivisionError):
            store.publish(sample_files(), lambda version, entries: 1 // 0)  # type: ignore[arg-type, return-value]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
