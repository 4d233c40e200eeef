"""How soon a training solves its environment: by its own returns, and by the first version that would have been enough.

Each seed is a whole ``scripts/train.py`` run in processes of its own, with every version kept. Both times count from
the first environment step. The versions are evaluated after the run, in the order in which they were published.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from rl_hotswap.evaluation import evaluate
from rl_hotswap.launcher.child_process import CHECKOUT, child_environment
from scripts.benchmarks.result import Result
from scripts.benchmarks.settings import BenchmarkSettings
from shared.errors import HotswapError
from shared.policy.manifest import TrainingProgress
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from shared.store.version_files import version_name

_ENV_ID = "CartPole-v1"
_TARGET_RETURN = 475.0
_EPISODES = 20
_EVALUATION_SEED = 10_000
_KEEP_ALL = "1"


class Solved(NamedTuple):
    """One seed's training. Seconds count from the first environment step; None where the target was not reached."""

    time_to_target_s: float | None
    env_steps: int
    steps_per_s: float
    first_version: TrainingProgress | None


def measure_solve(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Train once for each seed and give the rows. Raises HotswapError where a training fails."""
    solved = []
    flags = settings.training_flags
    with tempfile.TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        for seed in range(settings.seeds):
            result = _train(seed, flags, RunDirectory(Path(directory) / f"seed-{seed}"))
            solved.append(result)
            console.print(_line(seed, result), highlight=False)
    seeds = ", ".join(map(str, range(settings.seeds)))
    return _rows(solved, f"scripts/train.py --env {_ENV_ID} {' '.join(flags)}, seeds {seeds}")


def _train(seed: int, flags: Sequence[str], run: RunDirectory) -> Solved:
    command = [sys.executable, str(CHECKOUT / "scripts" / "train.py"), f"--env={_ENV_ID}", f"--seed={seed}"]
    command += [f"--target-return={_TARGET_RETURN}", f"--run-dir={run.path}", f"--keep-every={_KEEP_ALL}", *flags]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    summary = run.summary()
    if summary is None:
        raise HotswapError(f"training with seed {seed} gave no summary: {done.stderr.strip() or done.stdout[-500:]}")
    first = _first_good_version(LocalPolicyStore(run.policies))
    return Solved(summary.time_to_target_s, summary.env_steps, summary.steps_per_s, first)


def _first_good_version(store: LocalPolicyStore) -> TrainingProgress | None:
    for version in store.versions():
        directory = store.path / version_name(version)
        evaluation = evaluate(directory, _ENV_ID, episodes=_EPISODES, seed=_EVALUATION_SEED)
        if evaluation.mean >= _TARGET_RETURN:
            return store.open(version).manifest.training
    return None


def _line(seed: int, solved: Solved) -> str:
    first = solved.first_version
    found = "no version" if first is None else f"version of {first.train_s:.2f} s and {first.env_steps:,} steps"
    to_target = "not solved" if solved.time_to_target_s is None else f"solved in {solved.time_to_target_s:.2f} s"
    return f"seed {seed}: {to_target} and {solved.env_steps:,} steps; first good one: {found}"


def _rows(solved: Sequence[Solved], how: str) -> list[Result]:
    never = float("inf")
    times = [never if one.time_to_target_s is None else one.time_to_target_s for one in solved]
    firsts = [one.first_version or TrainingProgress(train_s=never, env_steps=sys.maxsize) for one in solved]
    versions = f"{how}; {_EPISODES} deterministic episodes of each version in turn"
    return [
        Result.of(f"{_ENV_ID}: last 100 episodes at the target", times, "s", how, at_most=6.0),
        Result.of(f"{_ENV_ID}: environment steps until then", [one.env_steps for one in solved], "steps", how),
        Result.of(f"{_ENV_ID}: steps per second", [one.steps_per_s for one in solved], "steps/s", how),
        Result.of(f"{_ENV_ID}: first good version", [first.train_s for first in firsts], "s", versions, at_most=0.8),
        Result.of(
            f"{_ENV_ID}: steps until it", [first.env_steps for first in firsts], "steps", versions, at_most=20_000
        ),
    ]
