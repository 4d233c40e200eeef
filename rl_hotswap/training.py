"""Training as a library call: the command ``rl-hotswap train`` in a process of its own."""

import os
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from learner.training.run_options import flag_words
from rl_hotswap.launcher.child_process import child_environment, python_module
from shared.errors import ConfigurationError, EnvironmentFailed, HotswapError, TrainingFailed
from shared.process.command_line import CANNOT, ENVIRONMENT_FAILED
from shared.process.process_guard import die_with
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory, new_run_directory

_STOP_TIMEOUT_S = 10.0
_REFUSALS: dict[int, type[HotswapError]] = {CANNOT: ConfigurationError, ENVIRONMENT_FAILED: EnvironmentFailed}

Flag = str | int | float | bool | Path | None | tuple[str | int | float, ...]


@dataclass(frozen=True)
class TrainingResult:
    """A training that ended. ``is_complete`` is false when ``max_seconds`` came before target and step limit."""

    run_dir: Path
    is_complete: bool
    summary: Summary

    @property
    def policies(self) -> Path:
        """Directory of the run's policy store, for ``open_store``."""
        return RunDirectory(self.run_dir).policies


def train(
    env: str = "CartPole-v1", *, run_dir: str | Path | None = None, quiet: bool = True, **flags: Flag
) -> TrainingResult:
    """Train a policy in processes of this machine, which end with the calling process, and return when it has ended.

    Agents elsewhere can follow the run meanwhile. Ctrl-C ends it after a checkpoint and raises KeyboardInterrupt.

    Args:
        env: Environment id; ``module:Id-v0`` imports the module first.
        run_dir: Directory of the run. None: a new one in ``runs/``.
        quiet: Print nothing. False shows the live table.
        flags: The other flags of ``rl-hotswap train`` with underscores, such as ``actors=2, total_steps=100_000,
            learning_rate=1e-3, resume=True``. None leaves a flag out.

    Raises:
        ConfigurationError: The command refuses the flags, the environment or the directory.
        EnvironmentFailed: The environment makes training impossible: it fails again and again.
        TrainingFailed: The learner died repeatedly; logs are in the run's directory.
    """
    path = new_run_directory(env).path if run_dir is None else Path(run_dir)
    given = {name: value for name, value in {"env": env, "run_dir": path, **flags}.items() if value is not None}
    arguments = ["train", *(word for name, value in given.items() for word in flag_words(name, value))]
    process = subprocess.Popen(
        python_module("rl_hotswap.cli.main", arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        start_new_session=True,  # this process forwards Ctrl-C, once
        preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - the child only calls prctl
    )
    try:
        _, errors = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise
    if process.returncode in _REFUSALS:
        last_line = errors.strip().rpartition("\n")[2]  # warnings may stand above it
        raise _REFUSALS[process.returncode](last_line.partition(": ")[2] or "the training could not run")
    summary = RunDirectory(path).summary()
    if process.returncode not in (0, 1) or summary is None:
        raise TrainingFailed(
            f"read the logs in {path / 'logs'}: the training ended with exit code {process.returncode}"
        )
    return TrainingResult(path, process.returncode == 0, summary)
