import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, StoreLocked
from shared.files.small_files import replace_file
from shared.policy.signature import PolicySignature
from shared.policy.spaces import ActionSpec
from shared.rollouts.rollout import RolloutAccounts
from shared.run.progress import Progress, Summary
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory, find_run, new_run_directory
from tests.support.paths import REPOSITORY
from tests.support.second_user import NOBODY


def _config(env_id: str) -> RunConfig:
    signature = PolicySignature((), ActionSpec("discrete", "int64", (), (2,)), (), ())
    return RunConfig("a-run", env_id, {"gravity": 9.8}, 1, 32, signature, "ipc://@a-run")


def _summary() -> Summary:
    counts = {"env_steps": 10, "versions_published": 3, "reloads": 2, "actor_restarts": 0}
    speed = {"wall_s": 2.0, "time_to_target_s": 1.5, "mean_return": 480.0, "steps_per_s": 5.0}
    return Summary(solved=True, rollouts=RolloutAccounts(4, 2, 1, 0, 1), **counts, **speed)


def _run(root: Path, name: str, env_id: str, *, modified_s: float, version: bool) -> RunDirectory:
    run = RunDirectory(root / name).create()
    run.write_run_config(_config(env_id))
    os.utime(run.path / "run.json", (modified_s, modified_s))
    if version:
        (run.policies / "v000000").mkdir()
        (run.policies / "v000000" / "manifest.json").touch()
    return run


def test_files_are_read_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a" / "b").create()
    run.write_run_config(_config("CartPole-v1"))
    run.write_progress(Progress(phase="training", env_steps=5, mean_return=None, version=3))
    run.write_summary(_summary())
    run.write_options({"env": "CartPole-v1", "flags": ["--seed=1"]})

    assert run.run_config() == _config("CartPole-v1")
    assert run.progress() == Progress(phase="training", env_steps=5, mean_return=None, version=3)
    assert run.summary() == _summary()
    assert run.options() == {"env": "CartPole-v1", "flags": ["--seed=1"]}
    assert {path.name for path in run.path.iterdir() if path.is_file()} == set(_JSON_FILES)


def test_missing_files_are_none(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "none")
    assert (run.run_config(), run.progress(), run.summary(), run.options(), run.env_id()) == (None,) * 5
    assert not any((run.has_version(), run.has_checkpoint(), run.live(), run.path.exists()))


def test_a_run_can_be_locked_on_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no disk that is always full")
    (tmp_path / "learner.lock").symlink_to("/dev/full")
    run = RunDirectory(tmp_path)
    with run.lock_learner():
        assert run.learner_alive()
    assert not run.learner_alive()


def test_unfinished_files_of_killed_processes_only_are_swept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_summary(_summary())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".progress.json.{pid}.abcdef").write_bytes(b"{")
    run.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", f".progress.json.{os.getpid()}.abcdef"}


_JSON_FILES = ["run.json", "progress.json", "summary.json", "options.json"]
_NEVER_RIGHT = [b"", b"{", b"[]", b'"\xff"']
_FOREIGN = [(name, content) for name in _JSON_FILES for content in _NEVER_RIGHT]
_FOREIGN += [(name, b'{"no_such_field": 1}') for name in _JSON_FILES if name != "options.json"]


@pytest.mark.parametrize(("name", "content"), _FOREIGN)
def test_foreign_content_is_a_configuration_error(tmp_path: Path, name: str, content: bytes) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / name).write_bytes(content)
    read = {"run": run.run_config, "progress": run.progress, "summary": run.summary, "options": run.options}
    with pytest.raises(ConfigurationError, match=name):
        read[name.removesuffix(".json")]()


@pytest.mark.parametrize("kind", ["a pipe", "a symbolic link", "more than"])
def test_a_file_that_blocks_or_never_ends_is_a_configuration_error(tmp_path: Path, kind: str) -> None:
    path = RunDirectory(tmp_path).path / "run.json"
    if kind == "a pipe":
        os.mkfifo(path)
        os.mkfifo(tmp_path / "learner.lock")
    elif kind == "a symbolic link":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(ConfigurationError, match=f"run.json: expected a file of at most 16777216 bytes, found {kind}"):
        RunDirectory(tmp_path).run_config()
    assert not RunDirectory(tmp_path).live()


def test_a_run_that_cannot_be_created_or_read_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write into the run directory"):
        RunDirectory(tmp_path / "file").create()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ConfigurationError, match=r"run\.json: expected a file .* found a directory"):
        RunDirectory(tmp_path).run_config()


def test_readers_see_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([65 + i]) * 100_000 for i in range(8)}
    replace_file(path, min(contents))
    seen = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in contents:
            replace_file(path, content)
    done.set()
    reader.join()
    assert seen <= contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "file", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_runs_are_named_after_their_environment_and_unique(tmp_path: Path) -> None:
    runs = {new_run_directory("ALE/Pong-v5", tmp_path).path for _ in range(20)}
    assert len(runs) == 20
    assert all(path.parent == tmp_path and path.name.startswith("ALE-Pong-v5-") for path in runs)


def _found(root: Path) -> Path | None:
    run = find_run("CartPole-v1", root)
    return None if run is None else run.path


def test_the_newest_run_with_a_version_is_found(tmp_path: Path) -> None:
    assert _found(tmp_path / "runs") is None
    _run(tmp_path, "other", "Acrobot-v1", modified_s=5, version=True)
    _run(tmp_path, "empty", "CartPole-v1", modified_s=4, version=False)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{}")
    (tmp_path / "a file").touch()
    assert _found(tmp_path) is None
    _run(tmp_path, "old", "CartPole-v1", modified_s=1, version=True)
    newer = _run(tmp_path, "newer", "CartPole-v1", modified_s=3, version=True)
    assert _found(tmp_path) == newer.path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
def test_a_run_of_another_user_is_found_by_its_path_only(tmp_path: Path) -> None:
    own = _run(tmp_path, "own", "CartPole-v1", modified_s=100, version=True)
    other = _run(tmp_path, "other", "CartPole-v1", modified_s=200, version=True)
    os.chown(other.path, NOBODY, NOBODY)
    assert _found(tmp_path) == own.path


def test_a_live_or_starting_run_precedes_a_newer_one(tmp_path: Path) -> None:
    live = _run(tmp_path, "live", "CartPole-v1", modified_s=1, version=False)
    newer = _run(tmp_path, "newer", "CartPole-v1", modified_s=2, version=True)
    with live.lock_learner():
        assert _found(tmp_path) == live.path
    assert _found(tmp_path) == newer.path
    starting = RunDirectory(tmp_path / "starting").create()
    starting.write_options({"env": "CartPole-v1"})
    with starting.lock_supervisor():
        assert _found(tmp_path) == starting.path


def test_one_learner_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock_learner():
        assert run.learner_alive()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            refused = pool.apply(_try_to_lock, (tmp_path,))
        assert refused == f"process {os.getpid()} already runs a learner in {tmp_path}"
    assert not run.learner_alive()
    with run.lock_learner():
        assert run.learner_alive()


@pytest.mark.parametrize("who", ["learner", "supervisor"])
def test_a_lock_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path, who: str) -> None:
    (tmp_path / f"{who}.lock").mkdir()
    run = RunDirectory(tmp_path)
    lock = {"learner": run.lock_learner, "supervisor": run.lock_supervisor}[who]
    with pytest.raises(ConfigurationError, match=rf"cannot open the {who}'s lock file .*{who}\.lock: Is a") as refusal:
        lock().__enter__()
    assert isinstance(refusal.value.__cause__, OSError)


def _try_to_lock(path: Path) -> str:
    try:
        with RunDirectory(path).lock_learner():
            return "locked"
    except StoreLocked as error:
        return str(error).partition(": ")[2]


def test_the_lock_of_a_killed_learner_is_released(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from shared.run.run_directory import RunDirectory\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).lock_learner():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    learner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with learner:
        assert learner.stdout is not None
        assert learner.stdout.readline() == "locked\n"
        assert RunDirectory(tmp_path).learner_alive()
        learner.send_signal(signal.SIGKILL)
    assert not RunDirectory(tmp_path).learner_alive()
    assert RunDirectory(tmp_path).run_config() is None


def test_checking_for_a_learner_does_not_block_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock_learner():
        pass
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            run.learner_alive()

    checker = threading.Thread(target=check)
    checker.start()
    try:
        for _ in range(50):
            with run.lock_learner():
                pass
    finally:
        done.set()
        checker.join()
