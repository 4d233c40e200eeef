"""``benchmark.py solve``: time until CartPole-v1 is solved, by training returns and by the first good version.

Each seed is one training whose versions are all kept. Both times count from the first environment step. The versions
are evaluated after the training, in the order of publication.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from rl_hotswap.evaluation import evaluate
from scripts.benchmarks.common.prepared_versions import TEMPORARY_PREFIX
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.settings import BenchmarkSettings
from scripts.benchmarks.training.cartpole_training import run_training
from scripts.benchmarks.training.sb3_training import ENV_ID, TARGET_RETURN
from shared.policy.manifest import TrainingProgress
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from shared.store.version_files import version_name

_EPISODES = 20
_EVALUATION_SEED = 10_000
_NEVER = float("inf")


class Solved(NamedTuple):
    """The training of one seed, and the progress at its first good version, if any."""

    summary: Summary
    first_version: TrainingProgress | None


def measure_solve(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Train once for each seed. Raise HotswapError if a training fails."""
    solved = []
    flags = settings.training_flags
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        for seed in range(settings.seeds):
            run = RunDirectory(Path(directory) / f"seed-{seed}")
            summary = run_training(seed, run, ["--keep-every=1", *flags])
            solved.append(Solved(summary, _first_good_version(LocalPolicyStore(run.policies))))
            console.print(_line(seed, solved[-1]), highlight=False)
    seeds = ", ".join(map(str, range(settings.seeds)))
    return _results(solved, f"rl-hotswap train --env {ENV_ID} {' '.join(flags)}, seeds {seeds}")


def _first_good_version(store: LocalPolicyStore) -> TrainingProgress | None:
    for version in store.versions():
        directory = store.path / version_name(version)
        if evaluate(directory, ENV_ID, episodes=_EPISODES, seed=_EVALUATION_SEED).mean >= TARGET_RETURN:
            return store.open(version).manifest.training
    return None


def _line(seed: int, solved: Solved) -> str:
    summary, first = solved
    found = "none" if first is None else f"after {first.train_s:.2f} s and {first.env_steps:,} steps"
    time_s = summary.time_to_target_s
    to_target = "not solved" if time_s is None else f"solved in {time_s:.2f} s"
    return f"seed {seed}: {to_target}, {summary.env_steps:,} steps; first good version: {found}"


def _results(solved: Sequence[Solved], how: str) -> list[Result]:
    summaries = [one.summary for one in solved]
    times = [_NEVER if one.time_to_target_s is None else one.time_to_target_s for one in summaries]
    firsts = [one.first_version or TrainingProgress(train_s=_NEVER, env_steps=sys.maxsize) for one in solved]
    versions = f"{how}; {_EPISODES} deterministic episodes of each version in order"
    name = f"{ENV_ID}:"
    return [
        Result.of(f"{name} time until the last 100 episodes reach the target", times, "s", how, at_most=6.0),
        Result.of(f"{name} environment steps until then", [one.env_steps for one in summaries], "steps", how),
        Result.of(f"{name} steps per second", [one.steps_per_s for one in summaries], "steps/s", how),
        Result.of(f"{name} first good version", [first.train_s for first in firsts], "s", versions, at_most=0.8),
        Result.of(
            f"{name} steps until that version", [first.env_steps for first in firsts], "steps", versions, at_most=20_000
        ),
    ]
