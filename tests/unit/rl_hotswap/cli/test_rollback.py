from collections.abc import Iterator
from pathlib import Path

import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from rl_hotswap.cli.rollback import COMMAND, RollbackOptions, main, roll_back
from shared.errors import DigestMismatch, NotAuthentic
from shared.policy.manifest import FileEntry, Manifest
from shared.policy.signing import SigningKey
from shared.process.command_line import run_command
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import Retention
from tests.support.agent_policies import exporter, local_store, make_policy, publish, publish_seed
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.store_cases import CASES, StoreCase, store_case

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
ANYTHING = Authenticity()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[StoreCase]:
    with store_case(request.param) as made:
        yield made


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.pem())
    path.chmod(0o600)
    return path


def publish_sample(case: StoreCase, content: bytes, key: SigningKey | None = None) -> Manifest:
    return case.open().publish(sample_files(content), sample_manifest, sign=None if key is None else key.sign)


def rollback(*arguments: object) -> int:
    return run_command(COMMAND, RollbackOptions, main, [str(argument) for argument in arguments])


def test_an_older_version_is_the_newest_again(case: StoreCase) -> None:
    old = publish_sample(case, b"old")
    publish_sample(case, b"new")
    made = roll_back(case.open(), 0, ANYTHING, None)
    store = case.open()
    assert store.newest() == made.version == 2
    files = store.open(2)
    assert (files.manifest.digest, files.manifest.restores) == (old.digest, 0)
    assert files.manifest.created_unix_s > old.created_unix_s
    assert (files.manifest.run_id, files.manifest.training) == (old.run_id, old.training)
    assert {name: files.read(name) for name in old.files} == sample_files(b"old")
    store.sweep(Retention(keep_newest=1))
    assert store.open(2).read("policy.ts") == sample_files()["policy.ts"], "it needs nothing of the old one"


def test_it_takes_a_number_of_its_own_while_a_learner_publishes(case: StoreCase) -> None:
    for content in (b"old", b"new"):
        publish_sample(case, content)
    store, learner = case.open(), case.open()
    publish_as_it_was = store.publish

    def race(files: dict[str, bytes], describe: object, **settings: object) -> Manifest:
        def describe_late(version: int, entries: dict[str, FileEntry]) -> Manifest:
            if version == 2:
                learner.publish(sample_files(b"faster"), sample_manifest)
            return describe(version, entries)  # type: ignore[operator]

        return publish_as_it_was(files, describe_late, **settings)  # type: ignore[arg-type]

    store.publish = race  # type: ignore[method-assign, assignment]
    assert roll_back(store, 0, ANYTHING, None).version == 3
    assert [case.open().open(v).read("weights.safetensors") for v in (2, 3)] == [b"faster", b"old"]
    assert learner.publish(sample_files(b"goes on"), sample_manifest).version == 4, (
        "and that is newer than the rollback"
    )


def test_what_was_signed_is_signed_again(case: StoreCase) -> None:
    strict = Authenticity([KEY.public])
    for content in (b"old", b"new"):
        publish_sample(case, content, KEY)
    made = roll_back(case.open(), 0, strict, KEY)
    assert strict.open(case.open(), made.version).manifest == made


def test_nothing_is_signed_that_the_key_did_not_sign_before(case: StoreCase) -> None:
    """Else whoever can write into the store would have it vouched for by the next rollback."""
    strict = Authenticity([KEY.public])
    publish_sample(case, b"not signed")
    publish_sample(case, b"by somebody else", OTHER_KEY)
    publish_sample(case, b"spoiled", KEY)
    case.put("v000002/weights.safetensors", b"others'")
    publish_sample(case, b"newest", KEY)
    for version in (0, 1):
        with pytest.raises(NotAuthentic):
            roll_back(case.open(), version, strict, KEY)
    with pytest.raises(DigestMismatch):
        roll_back(case.open(), 2, strict, KEY)
    assert case.open().newest() == 3
    either = Authenticity([KEY.public, OTHER_KEY.public])
    assert roll_back(case.open(), 1, either, KEY).version == 4


def test_a_person_is_told_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], key_file: Path) -> None:
    run = RunDirectory(tmp_path / "run").create()
    store = local_store(run.policies)
    for seed in range(2):
        publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign)
    digest = store.open(0).manifest.digest
    assert rollback("--run-dir", run.path, "--to", 0, "--signing-key", key_file) == 0
    assert capsys.readouterr().out == (
        f"version 2 has the content of version 0 (digest {digest[:12]}) in {run.policies}\n"
    )
    store.quarantine(digest, "ProbeMismatch: it lies", "actor-1")
    with run.lock_learner():
        assert rollback("--run-dir", run.path, "--to", 0, "--signing-key", key_file) == 0
    said = capsys.readouterr().out
    assert "refuses it under any number: ProbeMismatch: it lies" in said
    assert "its next version will be newer again" in said


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], key_file: Path) -> None:
    store = local_store(tmp_path / "policies")
    for key in (None, KEY, KEY):
        publish(store, make_policy(), exporter(), sign=None if key is None else key.sign)
    where = ("--store", store.path)
    for arguments, said in (
        ((*where, "--to", 7), "has no version 7: its 3 versions are from 0 to 2"),
        ((*where, "--to", 2), "2 is the newest"),
        ((*where, "--to", 1), "version 1 is signed too"),
        ((*where, "--to", 0, "--signing-key", key_file), "the version is not signed"),
        (("--store", tmp_path / "nowhere", "--to", 0), "it has none"),
        (("--to", 0), "give either --run-dir DIR or --store DIR|URL"),
        ((*where, "--run-dir", tmp_path, "--to", 0), "give either --run-dir DIR or --store DIR|URL"),
        ((*where, "--to", 0, "--public-key", KEY.public), "add --signing-key"),
        ((*where, "--to", 0, "--signing-key", tmp_path / "nowhere"), "cannot read the private key"),
    ):
        assert rollback(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert store.versions() == [0, 1, 2]


@pytest.mark.parametrize("synchronous", [True, False])
def test_actors_adopt_it_unless_they_know_that_it_is_bad(tmp_path: Path, synchronous: bool) -> None:
    store = local_store(tmp_path)
    publish_seed(store, 0)
    with Agent(store, AgentOptions(num_envs=3, synchronous=synchronous, deadline_s=60.0)) as agent:
        agent.reset()
        publish_seed(store, 1)
        assert agent.wait_for_version(1, 60.0)
        assert agent.adopt().version == 1
        again = roll_back(store, 0, ANYTHING, None)
        assert agent.wait_for_version(2, 60.0)
        adopted = agent.adopt()
        assert (adopted.version, adopted.digest) == (2, again.digest)
        assert adopted.manifest.restores == 0
