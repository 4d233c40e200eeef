"""Training in one process: the same seed gives the same weights, and so does a resumed run."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.ppo.learner_config import LearnerConfig
from learner.training.run_options import Outcome
from rl_hotswap.launcher.acting_options import SingleProcessRun
from rl_hotswap.launcher.single_process import train_in_one_process
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore
from tests.support.captured_logs import CapturedLogs
from tests.support.mounts import mounted
from tests.support.paths import REPOSITORY

pytestmark = pytest.mark.timeout(240)

_SMALL = LearnerConfig(hidden_sizes=(16,), rollout_length=16, batch_steps=64, minibatch_size=32, epochs=2)
OPTIONS = SingleProcessRun(
    env="CartPole-v1",
    envs_per_actor=4,
    target_return=float("inf"),
    seed=3,
    checkpoint_every_updates=7,
    publish_every_updates=2,
    learner=_SMALL,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _train(run: Path, steps: int, **changes: object) -> RunDirectory:
    options = replace(OPTIONS, total_steps=steps, **changes)
    assert train_in_one_process(options, RunDirectory(run), lambda: False) is Outcome.STEP_LIMIT
    return RunDirectory(run)


def _newest_weights(run: RunDirectory) -> bytes:
    store = LocalPolicyStore(run.policies)
    newest = store.newest()
    assert newest is not None
    return store.open(newest).read("weights.safetensors")


def test_the_same_seed_gives_the_same_weights_also_in_a_resumed_run(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole", 1300)
    other_seed = _train(tmp_path / "other", 100, seed=4)
    _train(tmp_path / "parts", 700)  # ends between two checkpoints
    parts = _train(tmp_path / "parts", 1300, resume=True)

    assert _newest_weights(parts) == _newest_weights(whole)
    assert _newest_weights(other_seed) != _newest_weights(whole)
    summary = json.loads((parts.path / "summary.json").read_text())
    accounts = summary["rollouts"]
    assert summary["env_steps"] == json.loads((whole.path / "summary.json").read_text())["env_steps"]
    assert accounts["sent"] == sum(accounts[place] for place in ("learned", "stale", "invalid", "lost"))
    assert accounts["learned"] * 16 * 4 >= 1300
    versions = LocalPolicyStore(parts.policies).versions()
    assert versions == sorted(set(versions))


_KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from rl_hotswap.launcher.single_process import train_in_one_process
from shared.store.policy_store import LocalPolicyStore
from shared.run.run_directory import RunDirectory
from tests.integration.test_single_process import OPTIONS

torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))

def die() -> bool:
    if LocalPolicyStore(run.policies).newest() == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return False

train_in_one_process(replace(OPTIONS, total_steps=1300), run, die)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights_and_reuses_no_number(tmp_path: Path) -> None:
    whole, run = _train(tmp_path / "whole", 1300), RunDirectory(tmp_path / "killed")
    # Checkpoints are written with versions 3, 7, …; versions after 3, unknown to the checkpoint, keep their numbers.
    done = subprocess.run([sys.executable, "-c", _KILLED, str(run.path), "6"], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    store = LocalPolicyStore(run.policies)
    before = {version: store.open(version).manifest.digest for version in store.versions()}
    assert max(before) == 6
    assert _newest_weights(_train(run.path, 1300, resume=True)) == _newest_weights(whole)
    after = {version: store.open(version).manifest.digest for version in store.versions()}
    assert before.items() <= after.items()
    assert max(after) > max(LocalPolicyStore(whole.policies).versions())


@pytest.mark.slow
def test_a_recurrent_policy_repeats_too(tmp_path: Path) -> None:
    recurrent = replace(_SMALL, network="lstm", recurrent_size=8)
    first = _train(tmp_path / "first", 400, learner=recurrent)
    second = _train(tmp_path / "second", 400, learner=recurrent)
    assert _newest_weights(first) == _newest_weights(second)


def test_a_stop_before_the_first_update_leaves_a_checkpoint_and_a_version(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    assert train_in_one_process(OPTIONS, run, lambda: True) is Outcome.INTERRUPTED
    assert run.has_checkpoint()
    assert run.has_version()
    assert run.summary() is not None


def test_signed_versions_are_acted_with_and_a_resumed_run_continues_signing(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "key.pem"
    path.write_bytes(key.pem())
    path.chmod(0o600)
    run = _train(tmp_path / "run", 200, signing_key=path)
    with pytest.raises(ConfigurationError, match="name the private key again by --signing-key FILE"):
        _train(tmp_path / "run", 400, resume=True)
    _train(tmp_path / "run", 400, resume=True, signing_key=path)
    store, strict = LocalPolicyStore(run.policies), Authenticity([key.public])
    assert len(store.versions()) >= 3
    for version in store.versions():
        strict.open(store, version)


@pytest.mark.slow
def test_the_engine_and_vectorisation_flags_are_respected(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    chosen = _train(tmp_path / "chosen", 100, engine="torchscript", vector="async")
    again = _train(tmp_path / "again", 100, engine="torchscript", vector="async")
    assert _newest_weights(chosen) == _newest_weights(again)
    assert (
        "environments created env=CartPole-v1 num_envs=4 vector=async reason=--vector async"
        in captured_logs.messages("INFO")
    )
    assert any(
        "policy version 0 adopted" in line and "engine=torchscript" in line for line in captured_logs.messages("INFO")
    )


@pytest.mark.slow
def test_a_training_is_resumed_though_the_disk_is_full(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=20m", "tmpfs") as disk:
        _train(disk / "run", 400)
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        run = _train(disk / "run", 700, resume=True)
        published = LocalPolicyStore(run.policies).newest()
        ballast.unlink()
        _train(disk / "run", 1000, resume=True)
        assert (LocalPolicyStore(run.policies).newest() or 0) > (published or 0)
