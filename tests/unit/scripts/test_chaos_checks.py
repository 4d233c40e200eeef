"""What a chaos run would notice: each check can fail."""

import shutil
from pathlib import Path

import pytest

from scripts.faults.cast import PureActor, tracebacks
from scripts.faults.published import Published
from scripts.faults.tail import Tail
from scripts.faults.verdict import Verdict
from shared.policy_store import LocalPolicyStore, version_name
from shared.used_numbers import UsedNumbers
from shared.version_files import mark_name
from tests.sample_versions import sample_files, sample_manifest


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return LocalPolicyStore(tmp_path / "policies", used_numbers=UsedNumbers(tmp_path / "numbers"))


@pytest.fixture
def verdict() -> Verdict:
    return Verdict()


@pytest.fixture
def published(store: LocalPolicyStore, verdict: Verdict) -> Published:
    numbers = UsedNumbers(store.path.parent / "numbers")
    return Published(lambda: [store.path, store.path.parent / "away"], verdict, numbers)


def _publish(store: LocalPolicyStore, content: bytes) -> str:
    return store.publish(sample_files(content), sample_manifest).digest


def _spoilt(store: LocalPolicyStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path / version_name(0), tmp_path / "staged"))


def test_what_the_learner_published_may_act_and_nothing_else(
    store: LocalPolicyStore, published: Published, verdict: Verdict, tmp_path: Path
) -> None:
    digest = _publish(store, b"good")
    published.look()
    assert published.who_acted(0, digest) is None
    assert published.who_acted(0, None) is None
    assert published.commit_spoilt(store.path, _spoilt(store, tmp_path), 1, "empty weights")
    published.look()
    for number, acted, reason in ((0, "0" * 64, "of digest"), (1, digest, "is spoilt"), (2, digest, "nobody")):
        assert reason in (published.who_acted(number, acted) or "")
    assert verdict.is_good


def test_a_number_that_is_taken_is_not_claimed_again(
    store: LocalPolicyStore, published: Published, tmp_path: Path
) -> None:
    _publish(store, b"good")
    staged = _spoilt(store, tmp_path)
    assert not published.commit_spoilt(store.path, staged, 0, "a kind")
    (store.path / mark_name(5)).touch()
    assert not published.commit_spoilt(store.path, staged, 4, "a kind"), "others have gone beyond it"
    assert published.commit_spoilt(store.path, staged, 6, "a kind")


def test_a_number_that_is_used_twice_is_noticed(
    store: LocalPolicyStore, published: Published, verdict: Verdict
) -> None:
    _publish(store, b"good")
    published.look()
    store.path.rename(store.path.parent / "away")
    other = LocalPolicyStore(store.path)
    other.publish(sample_files(b"good"), sample_manifest)
    published.look()
    assert verdict.is_good, "the same content under its own number"
    shutil.rmtree(other.path)
    LocalPolicyStore(store.path).publish(sample_files(b"another"), sample_manifest)
    published.look()
    assert not verdict.is_good


@pytest.mark.parametrize(("versions", "is_good"), [("[0]", True), ("[0, 1]", False)])
def test_every_version_that_acted_in_an_episode_is_checked(
    published: Published, verdict: Verdict, tmp_path: Path, versions: str, is_good: bool
) -> None:
    digest = _publish(LocalPolicyStore(tmp_path / "policies"), b"good")
    actor = PureActor.__new__(PureActor)
    actor.name, actor.first_acts_s = "pure-0", None
    (tmp_path / "said").write_text("version 0 acts now\n")
    (tmp_path / "log").write_text(f'{{"episode":1,"version":0,"versions":{versions},"digest":"{digest}"}}\n')
    actor._said, actor._episodes = Tail(tmp_path / "said"), Tail(tmp_path / "log")
    actor.look(published, verdict)
    assert verdict.is_good is is_good
    assert actor.first_acts_s is not None
    actor.close()


def test_a_tail_gives_whole_lines_once_and_follows_a_rotation(tmp_path: Path) -> None:
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


def test_a_verdict_is_told_as_json(tmp_path: Path, verdict: Verdict) -> None:
    verdict.did("kill -9 learner")
    verdict.hold("accounts exact", False, "one is missing")
    verdict.write(tmp_path / "chaos.json", seed=3)
    text = (tmp_path / "chaos.json").read_text()
    assert '"good": false' in text
    assert "one is missing" in text
