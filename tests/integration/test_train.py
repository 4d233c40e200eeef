"""``python scripts/train.py`` as a person meets it: a learner and actors as real processes, from start to end."""

import contextlib
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from learner.training.checkpoint import CheckpointStore
from rl_hotswap.evaluation import evaluate
from shared.policy.signing import SigningKey
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore
from shared.transport.transport_keys import ACTOR_KEY_NAME, read_actor_keys
from tests.support.paths import REPOSITORY
from tests.support.waiting import until

_TRAIN = [sys.executable, str(REPOSITORY / "scripts" / "train.py")]
_FLAGS = ["--env=CartPole-v1", "--envs-per-actor=4", "--batch-steps=256", "--epochs=2", "--hidden-sizes=16"]
# A target that is never reached: only what the test does ends the training.
_ENDLESS = [*_FLAGS, "--target-return=inf"]
_PATIENCE_S = 100.0
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ +\| [\w.]+:[\w<>]+:\d+ - ")

pytestmark = pytest.mark.timeout(240)


@contextlib.contextmanager
def _training(directory: Path, *flags: str) -> Iterator[tuple["subprocess.Popen[str]", RunDirectory]]:
    """A training that goes on, with version 1 published at least; nothing of it is left afterwards."""
    process = subprocess.Popen(
        [*_TRAIN, f"--run-dir={directory}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory.parent,
        start_new_session=True,
    )
    run = RunDirectory(directory)
    with process:
        try:
            until(lambda: _steps(run) > 0 or process.poll() is not None, _PATIENCE_S)
            assert process.poll() is None, process.communicate()[0]
            yield process, run
        finally:
            process.kill()


def _steps(run: RunDirectory) -> int:
    progress = run.progress()
    return progress.env_steps if progress is not None and progress.phase == "training" else 0


def _trains_since(run: RunDirectory, unix_s: float) -> bool:
    progress = run.progress()
    return progress is not None and progress.updated_unix_s > unix_s and _steps(run) > 0


def _children(process: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """learner, actor-0, actor-1, …"""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = re.search(r"--name=(\S+)|(learner)\.run", " ".join(child.cmdline()))
            if name is not None:
                found[name[1] or name[2]] = child
    return found


def _successor(process: "subprocess.Popen[str]", name: str, before: psutil.Process) -> psutil.Process | None:
    child = _children(process).get(name)
    return child if child is not None and child.pid != before.pid else None


def _gone(child: psutil.Process) -> bool:
    try:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _summary(run: RunDirectory) -> Summary:
    summary = run.summary()
    assert summary is not None
    accounts = summary.rollouts
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost
    assert accounts.learned > 0
    assert accounts.invalid == 0
    return summary


def _run(command: list[str], **settings: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S, **settings)


def _train(directory: Path, *flags: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return _run([*_TRAIN, f"--run-dir={directory}", *flags], **settings)


def _newest(run: RunDirectory) -> int:
    newest = LocalPolicyStore(run.policies).newest()
    return -1 if newest is None else newest


@pytest.mark.slow
@pytest.mark.parametrize("actors", [0, 1])
def test_an_environment_that_always_raises_ends_the_training_with_one_sentence(tmp_path: Path, actors: int) -> None:
    run = RunDirectory(tmp_path / "run")
    env = "tests.support.counting_environment:Raising-v0"
    done = _train(run.path, f"--env={env}", f"--actors={actors}", "--envs-per-actor=2", cwd=REPOSITORY)
    assert done.returncode == 4
    *_, last = done.stderr.splitlines()
    log = run.logs / ("actor-0.log" if actors else "learner.log")
    assert last == (
        f"rl-hotswap train: fix the environment: {env} raised Unsendable: the motor is hot, in step 2; "
        f"the traceback is in {log} (5 identical failures in a row)"
    )
    assert log.read_text().count("    raise Unsendable") == 5
    assert f"the traceback is in {log}" in done.stdout
    assert f"The run is in {run.path}" in done.stdout


def test_a_training_from_its_first_step_to_its_summary(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    done = _train(run.path, *_ENDLESS, "--actors=2", "--total-steps=6000")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not solved: mean return" in done.stdout
    assert "actor deaths 0" in done.stdout

    summary = _summary(run)
    assert not summary.solved
    assert summary.time_to_target_s is None
    assert summary.env_steps >= 6000
    assert summary.actor_restarts == 0
    assert summary.reloads > 0
    newest = _newest(run)
    assert newest + 1 == summary.versions_published > 0
    progress = run.progress()
    assert progress is not None
    assert progress.phase == "ended"
    assert any(run.tensorboard.iterdir())
    for name in ("supervisor", "learner", "actor-0", "actor-1"):
        first = (run.logs / f"{name}.log").read_text().splitlines()[0]
        assert _LINE.match(first), first

    assert evaluate(run.path, episodes=2, sandbox=None).version == newest


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    with _training(tmp_path / "run", *_ENDLESS, "--actors=1", "--seed=3") as (process, run):
        children = _children(process)
        assert children.keys() == {"learner", "actor-0"}
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    assert process.returncode == 130
    assert all(_gone(child) for child in children.values())
    assert "did_not_stop_in_time" not in said
    before, progress = _summary(run), run.progress()
    assert progress is not None
    assert CheckpointStore(run.checkpoints).load_newest()[1]["counters"]["updates"] == progress.updates > 0
    assert before.versions_published == _newest(run) + 1 > 0

    # Every flag but the new one is the run's own: another hidden size would not fit the checkpoint.
    done = _train(run.path, "--resume", f"--total-steps={before.env_steps + 1000}")
    assert (done.returncode, done.stderr) == (0, "")
    after = _summary(run)
    assert after.env_steps >= before.env_steps + 1000
    assert after.rollouts.learned > before.rollouts.learned
    assert after.versions_published == _newest(run) + 1 > before.versions_published
    assert "at update" in (run.logs / "learner.log").read_text()


@pytest.mark.slow
def test_who_is_killed_comes_back_and_nobody_outlives_the_supervisor(tmp_path: Path) -> None:
    with _training(tmp_path / "run", *_ENDLESS, "--actors=1", "--checkpoint-every-updates=1") as (process, run):
        first = _children(process)
        first["actor-0"].kill()
        again = until(lambda: _successor(process, "actor-0", first["actor-0"]), _PATIENCE_S)
        learned = _steps(run)
        until(lambda: _steps(run) > learned, _PATIENCE_S)  # without the actor there would be no steps

        first["learner"].kill()
        until(lambda: _successor(process, "learner", first["learner"]), _PATIENCE_S)
        newest = _newest(run)
        until(lambda: _newest(run) > newest, _PATIENCE_S)
        assert _children(process)["actor-0"].pid == again.pid  # it went on acting, and found the new learner

        last = _children(process).values()
        process.kill()
        process.wait()
        until(lambda: all(_gone(child) for child in last), _PATIENCE_S)
        until(lambda: not run.live(), _PATIENCE_S)  # the kernel lets go of locks a moment later


@pytest.mark.slow
def test_a_stopped_supervisor_stops_nobody_and_a_killed_one_leaves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor any process of its children's own: those that try programs, and those of the environments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where nothing was tried before, so that it is tried
    flags = ["--actors=1", "--vector=async"]
    with _training(tmp_path / "run", *_ENDLESS, *flags) as (process, run):
        process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, _PATIENCE_S)
        learned, newest = _steps(run), LocalPolicyStore(run.policies).newest() or 0
        until(lambda: _steps(run) > learned + 2000, _PATIENCE_S)
        until(lambda: (LocalPolicyStore(run.policies).newest() or 0) > newest, _PATIENCE_S)
        everyone = psutil.Process(process.pid).children(recursive=True)
        commands = " ".join(" ".join(one.cmdline()) for one in everyone)
        assert "actor.sandbox.sandbox_process" in commands
        assert len(everyone) >= 7  # the learner, the actor, its trial process and its four environments
        process.kill()  # a stopped process too
        process.wait()
        until(lambda: all(_gone(one) for one in everyone), _PATIENCE_S)
        until(lambda: not run.live(), _PATIENCE_S)


@pytest.mark.slow
def test_accounts_are_exact_whoever_was_killed(tmp_path: Path) -> None:
    """A learner and an actor at once: whatever the killed had sent and learned is somewhere in the sum."""
    with _training(tmp_path / "run", *_ENDLESS, "--actors=2", "--checkpoint-every-updates=20") as (process, run):
        until(lambda: _steps(run) > 3000, _PATIENCE_S)
        children = _children(process)
        for name in ("learner", "actor-1"):
            children[name].kill()
        killed_unix_s = time.time()
        before = run.progress()
        assert before is not None
        until(lambda: _successor(process, "actor-1", children["actor-1"]), _PATIENCE_S)
        until(lambda: _trains_since(run, killed_unix_s), _PATIENCE_S)
        process.send_signal(signal.SIGINT)
        process.communicate()
    summary = _summary(run)
    assert summary.rollouts.sent >= before.rollouts.sent
    assert summary.rollouts.lost > 0


@pytest.mark.slow
def test_rollouts_that_leave_the_machine_are_encrypted_and_learned_from(tmp_path: Path) -> None:
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        pytest.skip("this host's name leads nowhere")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = RunDirectory(tmp_path / "run")
    done = _train(run.path, *_ENDLESS, "--actors=1", "--total-steps=2000", f"--listen=tcp://0.0.0.0:{port}")
    assert (done.returncode, done.stderr) == (0, "")
    assert _summary(run).rollouts.learned > 0
    config = run.run_config()
    assert config is not None
    assert config.address == f"tcp://{socket.gethostname()}:{port}"
    assert config.learner_public_key == read_actor_keys(run.path / ACTOR_KEY_NAME).learner_public_key


@pytest.mark.slow
def test_max_seconds_is_exit_code_1(tmp_path: Path) -> None:
    done = _train(tmp_path / "run", *_ENDLESS, "--actors=1", "--max-seconds=1")
    assert (done.returncode, done.stderr) == (1, "")
    assert _summary(RunDirectory(tmp_path / "run")).wall_s >= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("actors", [0, 1, 2])
def test_a_target_that_is_reached_is_solved(tmp_path: Path, actors: int) -> None:
    done = _train(tmp_path / "run", *_FLAGS, "--target-return=15", f"--actors={actors}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "solved in " in done.stdout
    summary = _summary(RunDirectory(tmp_path / "run"))
    assert summary.solved
    assert summary.time_to_target_s is not None
    assert summary.mean_return is not None
    assert summary.mean_return >= 15


@pytest.mark.slow
def test_an_actor_started_by_hand_joins_and_its_rollouts_are_learned(tmp_path: Path) -> None:
    """The learner alone, so that whatever it learns comes from that actor; found by its environment, not by a path."""
    run = RunDirectory(tmp_path / "runs" / "by-hand")
    python = [sys.executable, "-m"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    learner = subprocess.Popen(
        [*python, "learner.run", f"--run-dir={run.path}", *_ENDLESS],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with learner:
        until(run.learner_alive, _PATIENCE_S)
        log = tmp_path / "episodes.jsonl"
        act = [*python, "actor.run", "--env=CartPole-v1", "--episodes=60", "--envs=4", f"--episode-log={log}"]
        actor = _run(act, cwd=tmp_path, env=environment)
        assert actor.returncode == 0, actor.stderr
        learner.send_signal(signal.SIGTERM)
        learner.communicate()
    assert learner.returncode == 130
    assert actor.stdout.count("acts now") >= 2
    episodes = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(episodes) == 60
    assert len({episode["version"] for episode in episodes}) >= 2
    _summary(run)


@pytest.mark.slow
def test_the_run_of_the_last_release_is_resumed_with_a_secret_and_made_private(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    assert _train(run.path, *_ENDLESS, "--actors=1", "--total-steps=2000").returncode == 0
    before, config = _summary(run), run.run_config()
    assert config is not None
    for name in ("learner.key", ACTOR_KEY_NAME):
        (run.path / name).unlink()
    old_address = f"ipc://@rl-hotswap-{config.run_id}"
    run.write_run_config(msgspec.structs.replace(config, address=old_address, learner_public_key=None))
    for path in (run.path, *run.path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)

    done = _train(run.path, "--resume", f"--total-steps={before.env_steps + 1000}")
    assert (done.returncode, done.stderr) == (0, "")
    assert _summary(run).env_steps >= before.env_steps + 1000
    after = run.run_config()
    assert after is not None
    assert (after.run_id, after.address) == (config.run_id, "ipc://learner.sock")
    assert after.learner_public_key == read_actor_keys(run.path / ACTOR_KEY_NAME).learner_public_key
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    logs = "".join(path.read_text() for path in run.logs.glob("*.log"))
    assert logs.count("run directory made private") == 1
    assert not (run.path / "learner.sock").exists()


@pytest.mark.slow
def test_a_training_that_signs(tmp_path: Path) -> None:
    key, key_file = SigningKey.generate(), tmp_path / "key.pem"
    key_file.write_bytes(key.pem())
    key_file.chmod(0o600)
    run = RunDirectory(tmp_path / "run")
    signing = f"--signing-key={key_file}"
    done = _train(run.path, *_ENDLESS, "--actors=1", "--total-steps=3000", signing)
    assert (done.returncode, done.stderr) == (0, "")
    assert _summary(run).reloads > 0
    store, strict = LocalPolicyStore(run.policies), Authenticity([key.public])
    for version in store.versions():
        strict.open(store, version)
    secret = key.pem().splitlines()[1]
    for path in run.path.rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes(), path
    for kept in ("options.json", "run.json"):
        assert str(key_file) not in (run.path / kept).read_text()

    without = _train(run.path, "--env=CartPole-v1", "--resume", "--total-steps=6000")
    assert (without.returncode, without.stdout) == (2, "")
    assert "name the private key again by --signing-key FILE" in without.stderr
    again = _train(run.path, "--env=CartPole-v1", "--resume", "--total-steps=6000", signing)
    assert again.returncode == 0, again.stderr

    act = [sys.executable, "-m", "actor.run", "--env=CartPole-v1", f"--run-dir={run.path}", "--episodes=1"]
    for public, code in ((key.public, 0), (SigningKey.generate().public, 2)):
        acted = _run([*act, f"--public-key={public}", f"--deadline-s={30 if code == 0 else 2}"], cwd=REPOSITORY)
        assert acted.returncode == code, acted.stderr
    assert re.search(
        r"run\.json has no signature by ed25519:.*: it was signed with another key, or changed afterwards", acted.stderr
    )
    config = run.run_config()
    assert config is not None
    run.write_run_config(msgspec.structs.replace(config, env_kwargs={"max_episode_steps": 3}))
    forged = _run([*act, f"--public-key={key.public}", "--deadline-s=2"], cwd=REPOSITORY)
    assert (forged.returncode, "changed afterwards" in forged.stderr) == (2, True), forged.stderr
