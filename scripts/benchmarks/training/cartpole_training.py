"""One training of CartPole-v1 in its own processes, as ``rl-hotswap train`` runs it."""

import subprocess
from collections.abc import Sequence

from rl_hotswap.launcher.child_process import child_environment, python_module
from scripts.benchmarks.training.sb3_training import ENV_ID, TARGET_RETURN
from shared.errors import HotswapError
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory


def run_training(seed: int, run: RunDirectory, flags: Sequence[str]) -> Summary:
    """Train until solved. Raise HotswapError if the training wrote no summary."""
    flags = [f"--env={ENV_ID}", f"--seed={seed}", f"--run-dir={run.path}", f"--target-return={TARGET_RETURN}", *flags]
    command = python_module("rl_hotswap.cli", ["train", *flags])
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if (summary := run.summary()) is None:
        raise HotswapError(
            f"no summary from the training with seed {seed}: {done.stderr.strip() or done.stdout[-500:]}"
        )
    return summary
