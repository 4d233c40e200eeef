"""``benchmark.py solve`` and ``training``: time until CartPole-v1 is solved, and steps per second until then.

``solve``: each seed is one training whose versions are all kept and evaluated afterwards, in the order of publication.
``training``: this project's learner and one actor, each a process, on two cores, beside the fastest of several settings
of Stable-Baselines3's PPO. All times count from the first environment step; settings that do not solve it do not count.
"""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from rich.console import Console

from rl_hotswap.evaluation import evaluate
from rl_hotswap.launcher.child_process import child_environment, python_module
from scripts.benchmarks.common.prepared_versions import TEMPORARY_PREFIX
from scripts.benchmarks.common.result import Result, is_installed
from scripts.benchmarks.common.rounds import BenchmarkSettings, interleave, ratios
from scripts.benchmarks.sb3_training import ENV_ID, TARGET_RETURN, Candidate, TimedTraining
from shared.errors import HotswapError
from shared.policy.manifest import TrainingProgress
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore
from shared.store.version_files import version_name

# The highest throughput of the learner's core: many environments in one vector, one pass over large batches, and actors
# that do not wait for the learner.
THROUGHPUT = shlex.split(
    "--async --envs-per-actor=1024 --rollout-length=16 --batch-steps=16384 --minibatch-size=2048 --epochs=1 "
    "--shared-trunk --publish-every-updates=2"
)

# The first is from RL Baselines3 Zoo; the others make fewer and larger updates and still solve the environment.
CANDIDATES = {
    "zoo": Candidate(8, 32, 256, 20, 1e-3, gae_lambda=0.8, linear=True, total_steps=100_000),
    "64 environments": Candidate(64, 32, 512, 5, 3e-3, gae_lambda=0.9),
    "128 environments": Candidate(128, 32, 1024, 4, 3e-3, gae_lambda=0.9),
    "256 environments, two epochs": Candidate(256, 16, 1024, 2, 3e-3, gae_lambda=0.9),
}

_EPISODES = 20
_EVALUATION_SEED = 10_000
_NEVER = float("inf")
_SB3 = "Stable-Baselines3"
_MOST_ROUNDS = 5  # each is one training of both


class Solved(NamedTuple):
    """The training of one seed, and the progress at its first good version, if any."""

    summary: Summary
    first_version: TrainingProgress | None


def run_training(seed: int, run: RunDirectory, flags: Sequence[str]) -> Summary:
    """Train until solved. Raise HotswapError if the training wrote no summary."""
    flags = [f"--env={ENV_ID}", f"--seed={seed}", f"--run-dir={run.path}", f"--target-return={TARGET_RETURN}", *flags]
    command = python_module("rl_hotswap.cli.main", ["train", *flags])
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if (summary := run.summary()) is None:
        output = done.stderr.strip() or done.stdout[-500:]
        raise HotswapError(f"no summary from the training with seed {seed}: {output}")
    return summary


def measure_solve(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Train once for each seed. Raise HotswapError if a training fails."""
    solved = []
    flags = settings.training_flags
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        for seed in range(settings.seeds):
            run = RunDirectory(Path(directory) / f"seed-{seed}")
            summary = run_training(seed, run, ["--keep-every=1", *flags])
            solved.append(Solved(summary, _first_good_version(LocalPolicyStore(run.policies))))
            console.print(_line(seed, *solved[-1]), highlight=False)
    seeds = ", ".join(map(str, range(settings.seeds)))
    return _solve_results(solved, f"rl-hotswap train --env {ENV_ID} {' '.join(flags)}, seeds {seeds}")


def _first_good_version(store: LocalPolicyStore) -> TrainingProgress | None:
    for version in store.versions():
        directory = store.path / version_name(version)
        if evaluate(directory, ENV_ID, episodes=_EPISODES, seed=_EVALUATION_SEED).mean >= TARGET_RETURN:
            return store.open(version).manifest.training
    return None


def _line(seed: int, summary: Summary, first: TrainingProgress | None) -> str:
    found = "none" if first is None else f"after {first.train_s:.2f} s and {first.env_steps:,} steps"
    time_s = summary.time_to_target_s
    to_target = "not solved" if time_s is None else f"solved in {time_s:.2f} s"
    return f"seed {seed}: {to_target}, {summary.env_steps:,} steps; first good version: {found}"


def _solve_results(solved: Sequence[Solved], how: str) -> list[Result]:
    summaries = [one.summary for one in solved]
    times = [_NEVER if one.time_to_target_s is None else one.time_to_target_s for one in summaries]
    firsts = [one.first_version or TrainingProgress(train_s=_NEVER, env_steps=sys.maxsize) for one in solved]
    env_steps = [first.env_steps for first in firsts]
    versions = f"{how}; {_EPISODES} deterministic episodes of each version in order"
    name = f"{ENV_ID}:"
    return [
        Result.of(f"{name} time until the last 100 episodes reach the target", times, "s", how, at_most=6.0),
        Result.of(f"{name} environment steps until then", [one.env_steps for one in summaries], "steps", how),
        Result.of(f"{name} steps per second", [one.steps_per_s for one in summaries], "steps/s", how),
        Result.of(f"{name} first good version", [first.train_s for first in firsts], "s", versions, at_most=0.8),
        Result.of(f"{name} steps until that version", env_steps, "steps", versions, at_most=20_000),
    ]


def measure_training(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Find the fastest settings of Stable-Baselines3, then train with both in turn. Raise HotswapError on failure."""
    flags = [*THROUGHPUT, *settings.training_flags]
    rounds = min(settings.rounds, _MOST_ROUNDS)
    ours: list[TimedTraining] = []
    measurements: dict[str, Callable[[], float]] = {
        "rl-hotswap": lambda: _steps_per_s(ours, _train(len(ours), flags), "rl-hotswap", console)
    }
    best = _best_candidate(console)
    baseline: list[TimedTraining] = []
    if best is not None:
        measurements[_SB3] = lambda: _steps_per_s(baseline, _train_sb3(best, len(baseline)), _SB3, console)
    values = interleave(measurements, rounds)
    solved_rates = [rate if one.solved else 0.0 for rate, one in zip(values["rl-hotswap"], ours, strict=True)]
    command = f"rl-hotswap train --env {ENV_ID} {' '.join(flags)}, seeds 0 to {rounds - 1}"
    solved, baseline_solved = (f"{sum(one.solved for one in each)} of {len(each)}" for each in (ours, baseline))
    how = f"{command}, until solved: {solved}"
    results = [
        Result.of(f"{ENV_ID}: steps learned from per second, until solved", solved_rates, "steps/s", how),
        Result.of(f"{ENV_ID}: seconds until solved", [one.solved_s for one in ours], "s", how),
    ]
    if best is None:
        return results
    baseline_how = (
        f"stable_baselines3.PPO, {', '.join(f'{name} {value}' for name, value in msgspec.structs.asdict(best).items())}"
        f", the fastest of {len(CANDIDATES) + 1} settings that solve seed 0; "
        f"until solved: {baseline_solved}; its speed counts in either case"
    )
    over = ratios(solved_rates, values[_SB3])
    return [
        Result.of(f"{ENV_ID}: training steps/s over {_SB3}'s best", over, "x", f"{how}; {baseline_how}", at_least=15.0),
        *results,
        Result.of(f"{ENV_ID}: {_SB3}'s best", values[_SB3], "steps/s", baseline_how),
        Result.of(f"{ENV_ID}: {_SB3}'s seconds until solved", [one.solved_s for one in baseline], "s", baseline_how),
    ]


def _steps_per_s(found: list[TimedTraining], timed: TimedTraining, name: str, console: Console) -> float:
    found.append(timed)
    _print(f"seed {len(found) - 1}, {name}", timed, console)
    return timed.steps_per_s


def _print(label: str, timed: TimedTraining, console: Console) -> None:
    outcome = f"solved in {timed.seconds:.2f} s" if timed.solved else "not solved"
    console.print(f"{label}: {timed.steps_per_s:,.0f} steps/s, {outcome}, {timed.env_steps:,} steps", highlight=False)


def _train(seed: int, flags: list[str]) -> TimedTraining:
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        summary = run_training(seed, RunDirectory(Path(directory) / "run"), flags)
    return TimedTraining(summary.solved, summary.env_steps, summary.env_steps / summary.steps_per_s)


def _best_candidate(console: Console) -> Candidate | None:
    """Return the fastest settings that solve seed 0, on one thread or, for the best, on two; None without any."""
    if not is_installed("stable_baselines3", "no comparison", console):
        return None
    found: dict[float, Candidate] = {}

    def try_candidate(name: str, candidate: Candidate) -> None:
        timed = _train_sb3(candidate, 0)
        _print(f"{_SB3}, {name}", timed, console)
        if timed.solved:
            found[timed.steps_per_s] = candidate

    for name, candidate in CANDIDATES.items():
        try_candidate(name, candidate)
    if not found:
        console.print(f"no comparison: no settings of {_SB3} solved the environment in time")
        return None
    try_candidate("fastest on two threads", replace(found[max(found)], threads=2))
    return found[max(found)]


def _train_sb3(candidate: Candidate, seed: int) -> TimedTraining:
    arguments = [msgspec.json.encode(candidate).decode(), str(seed)]
    command = python_module("scripts.benchmarks.sb3_training", arguments)
    environment = child_environment() | {"OMP_NUM_THREADS": str(candidate.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotswapError(f"Stable-Baselines3 could not train: {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=TimedTraining)
