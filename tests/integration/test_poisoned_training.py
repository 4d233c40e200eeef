"""Environments that give values no policy can learn from: trainings end with one sentence, or go on unharmed."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.ppo.learner_config import LearnerConfig
from learner.training.checkpoint import CheckpointStore
from learner.training.run_options import Outcome
from rl_hotswap.launcher.acting_options import SingleProcessRun
from rl_hotswap.launcher.single_process import train_in_one_process
from scripts.fault_injection.faulty_environment import ENV_ID
from scripts.fault_injection.garbage_client import INVALID, send_invalid
from shared.errors import EnvironmentFailed
from shared.policy.manifest import WEIGHTS_FILE
from shared.policy.weights import check_finite, decode_weights
from shared.run.progress import Progress, Summary
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from tests.support.paths import REPOSITORY
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(240)

_SMALL = LearnerConfig(hidden_sizes=(8,), rollout_length=8, batch_steps=32, minibatch_size=32, epochs=1)
_OPTIONS = SingleProcessRun(
    env=ENV_ID, envs_per_actor=2, vector="sync", target_return=float("inf"), total_steps=600, learner=_SMALL
)
_BOTH = pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
_CASES = pytest.mark.parametrize(
    ("fault", "sync"),
    [
        ("nan reward", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("nan reward", False), ("infinite reward", True))),
        pytest.param("huge reward", False, marks=pytest.mark.slow),
    ],
)
_SENTENCES = {
    "nan reward": r"reward holds values that are not finite: reward\[0, 0\] is nan",
    "infinite reward": r"reward holds values that are not finite: reward\[0, 0\] is inf",
    "huge reward": r"reward holds values outside \[-1e\+06, 1e\+06\] \(--reward-limit\): reward\[0, 0\] is 3e\+38",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _train(directory: Path, *, sync: bool = True, **faults: object) -> RunDirectory:
    run = RunDirectory(directory / "run")
    learner = replace(_SMALL, sync=sync)
    options = replace(_OPTIONS, env_kwargs=json.dumps(faults), learner=learner)
    assert train_in_one_process(options, run, lambda: False) is Outcome.STEP_LIMIT
    return run


def _summary(run: RunDirectory) -> Summary:
    summary = run.summary()
    assert summary is not None
    return summary


def _check_finite(run: RunDirectory) -> None:
    """Check that everything published and kept is finite."""
    store = LocalPolicyStore(run.policies)
    for version in store.versions():
        check_finite(decode_weights(store.open(version).read(WEIGHTS_FILE)))
    _, state = CheckpointStore(run.checkpoints).load_newest()
    assert all(torch.isfinite(tensor).all() for tensor in state["learner"]["policy"].values())


@_CASES
def test_values_that_are_never_valid_end_the_training_with_one_sentence(tmp_path: Path, fault: str, sync: bool) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        _train(tmp_path, sync=sync, fault=fault)
    assert caught.match(rf"^fix the environment {ENV_ID}: 10 rollouts in a row of 'actor-0' were rejected, the last ")
    assert caught.match(_SENTENCES[fault])
    assert len(str(caught.value)) < 300
    accounts = _summary(RunDirectory(tmp_path / "run")).rollouts
    assert (accounts.sent, accounts.invalid, accounts.learned) == (10, 10, 0)


@_BOTH
def test_an_observation_that_is_nan_is_one_error_that_names_it(tmp_path: Path, sync: bool) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        _train(tmp_path, sync=sync, fault="nan observation", at=20)
    assert caught.match(rf"^fix the environment: {ENV_ID}: no policy can act on this: observation holds values")
    assert caught.match(r"not finite, such as nan, in step 22")


@_CASES
def test_one_value_that_is_not_valid_costs_no_more_than_its_rollouts(tmp_path: Path, fault: str, sync: bool) -> None:
    run = _train(tmp_path, sync=sync, fault=fault, at=50, again=False)
    summary = _summary(run)
    assert 1 <= summary.rollouts.invalid <= 3  # also those with the ends of the episodes that it was in
    assert summary.rollouts.learned == summary.rollouts.sent - summary.rollouts.invalid > 30
    assert summary.mean_return is not None
    assert summary.skipped_updates == 0
    _check_finite(run)


def test_a_policy_that_diverges_is_neither_published_nor_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    options = replace(_OPTIONS, learner=replace(_SMALL, learning_rate=1e30, minibatch_size=8))
    assert train_in_one_process(options, run, lambda: False) is Outcome.STEP_LIMIT
    summary = _summary(run)
    assert summary.skipped_updates >= 10
    assert summary.rollouts.sent == summary.rollouts.learned + summary.rollouts.invalid
    _check_finite(run)


def _arguments(directory: Path, *flags: str, **faults: object) -> list[str]:
    flags = (
        *("--envs-per-actor=2", "--batch-steps=32", "--rollout-length=8", "--epochs=1", "--hidden-sizes=8"),
        *("--total-steps=2000", "--target-return=inf", "--vector=sync", *flags),
    )
    script = str(REPOSITORY / "scripts" / "train.py")
    own = (f"--env={ENV_ID}", f"--run-dir={directory / 'run'}", f"--env-kwargs={json.dumps(faults)}")
    return [sys.executable, script, *own, *flags]


def _command(directory: Path, *flags: str, **faults: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_arguments(directory, *flags, **faults), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--sync", "--async"])
@pytest.mark.parametrize("actors", [1, 2])
def test_a_training_with_actors_ends_with_exit_code_4(tmp_path: Path, mode: str, actors: int) -> None:
    done = _command(tmp_path, mode, f"--actors={actors}", fault="nan reward")
    assert done.returncode == 4, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    found = re.search(rf"fix the environment {ENV_ID}: (\d+) rollouts in a row of 'actor-\d' were rejected", last)
    assert found is not None, last
    assert int(found[1]) >= 10  # others may have arrived before the learner looked
    assert "reward[0, 0] is nan" in last
    assert _summary(RunDirectory(tmp_path / "run")).rollouts.invalid >= 10


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--sync", "--async"])
def test_a_training_with_actors_goes_on_after_one_value(tmp_path: Path, mode: str) -> None:
    done = _command(tmp_path, mode, fault="nan reward", at=50, again=False)
    assert done.returncode == 0, done.stderr
    summary = _summary(RunDirectory(tmp_path / "run"))
    assert 1 <= summary.rollouts.invalid <= 3
    assert "rejected" in done.stdout
    _check_finite(RunDirectory(tmp_path / "run"))


@pytest.mark.slow
def test_an_environment_that_always_observes_nan_ends_a_training_with_exit_code_4(tmp_path: Path) -> None:
    done = _command(tmp_path, fault="nan observation")
    assert done.returncode == 4, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"{ENV_ID}: no policy can act on this: observation holds values that are not" in last
    assert "such as nan, in step 2" in last


@pytest.mark.slow
def test_an_actor_whose_environment_observed_nan_once_acts_again(tmp_path: Path) -> None:
    requests = tmp_path / "requests"
    requests.mkdir()
    (requests / "nan observation").touch()
    done = _command(tmp_path, requests=str(requests))
    assert done.returncode == 0, done.stderr
    assert _summary(RunDirectory(tmp_path / "run")).actor_restarts == 1
    _check_finite(RunDirectory(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--sync", "--async"])
def test_poisoned_rollouts_of_a_hostile_sender_do_no_harm(tmp_path: Path, mode: str) -> None:
    run = RunDirectory(tmp_path / "run")
    with subprocess.Popen(_arguments(tmp_path, mode, "--total-steps=100000000"), stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: _progress(run).phase == "training", 100)
            config = run.run_config()
            assert config is not None
            for kind in INVALID:
                assert send_invalid(run.path, config, kind, timeout_s=20.0)
            until(lambda: _progress(run).rollouts.invalid == len(INVALID), 100)
            steps = _progress(run).env_steps
            until(lambda: _progress(run).env_steps > steps, 100)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert _summary(run).skipped_updates == 0
    _check_finite(run)


def _progress(run: RunDirectory) -> Progress:
    return run.progress() or Progress()
