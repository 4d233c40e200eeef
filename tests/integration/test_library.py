"""The library calls of the public package, with real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rl_hotswap import Agent, AgentOptions, evaluate, open_store, train
from shared.errors import ConfigurationError, EnvironmentFailed, TrainingFailed
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def test_train_evaluate_and_act(tmp_path: Path) -> None:
    result = train("CartPole-v1", run_dir=tmp_path / "run", total_steps=20_000, target_return=float("inf"))
    assert result.is_complete
    assert result.summary.env_steps >= 20_000
    evaluation = evaluate(result.run_dir, episodes=3)
    assert (evaluation.env, evaluation.episodes) == ("CartPole-v1", 3)
    with Agent(open_store(result.policies), AgentOptions()) as agent:
        agent.reset()
        assert agent.policy.version == evaluation.version
    resumed = train("CartPole-v1", run_dir=result.run_dir, resume=True, total_steps=30_000, quiet=False)
    assert resumed.summary.env_steps >= 30_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"actors": -1}, "--actors"), ({"no_such_flag": 1}, "no-such-flag"), ({"network": "x"}, "--network")],
)
def test_refused_flags_are_a_configuration_error(flags: dict[str, int | str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train("CartPole-v1", run_dir=tmp_path / "run", **flags)


def test_unknown_environment_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean CartPole-v1"):
        train("CartPol-v1", run_dir=tmp_path / "run")


def test_training_that_cannot_run_names_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_hotswap.training.python_module", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(TrainingFailed, match=r"read the logs in .*exit code 3"):
        train("CartPole-v1", run_dir=tmp_path / "run")


def test_an_environment_that_makes_training_impossible_is_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('rl-hotswap train: fix the environment: it raised', file=sys.stderr); sys.exit(4)"
    monkeypatch.setattr("rl_hotswap.training.python_module", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(EnvironmentFailed, match=r"^fix the environment: it raised$"):
        train("CartPole-v1", run_dir=tmp_path / "run")


def test_no_process_outlives_the_caller(tmp_path: Path) -> None:
    code = f"from rl_hotswap import train; train(run_dir={str(tmp_path / 'run')!r}, target_return=float('inf'))"
    with subprocess.Popen([sys.executable, "-c", code]) as caller:
        until(lambda: len(psutil.Process(caller.pid).children(recursive=True)) >= 3, patience_s=60)
        family = psutil.Process(caller.pid).children(recursive=True)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_ctrl_c_ends_the_training_after_a_checkpoint(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        f"from rl_hotswap import train; train(run_dir={str(tmp_path / 'run')!r}, target_return=float('inf'))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as caller:
        until(lambda: any((tmp_path / "run" / "policies").glob("v*/manifest.json")), patience_s=60)
        family = psutil.Process(caller.pid).children(recursive=True)
        caller.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in caller.communicate(timeout=30)[1]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert any((tmp_path / "run" / "checkpoints").iterdir())
