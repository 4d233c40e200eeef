"""``benchmark.py training``: steps learned from per second until CartPole-v1 is solved, beside Stable-Baselines3.

A training of this project has a learner and one actor, each a process, on two cores. The baseline is the fastest of
several settings of Stable-Baselines3's PPO, each in its own process. Both count from the first environment step until
the last 100 episodes average 475; settings that do not solve the environment do not count.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from rl_hotswap.launcher.child_process import child_environment, python_module
from scripts.benchmarks.common.prepared_versions import TEMPORARY_PREFIX
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.rounds import interleave, ratios
from scripts.benchmarks.common.settings import BenchmarkSettings
from scripts.benchmarks.training.cartpole_training import run_training
from scripts.benchmarks.training.sb3_training import ENV_ID, Candidate, TimedTraining
from shared.errors import HotswapError
from shared.run.run_directory import RunDirectory

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

_SB3 = "Stable-Baselines3"
_MOST_ROUNDS = 5  # each is one training of both


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
    how = f"{command}, until solved: {_how_many_solved(ours)}"
    results = [
        Result.of(f"{ENV_ID}: steps learned from per second, until solved", solved_rates, "steps/s", how),
        Result.of(f"{ENV_ID}: seconds until solved", _seconds_until_solved(ours), "s", how),
    ]
    if best is None:
        return results
    baseline_how = (
        f"stable_baselines3.PPO, {_describe(best)}, the fastest of {len(CANDIDATES) + 1} settings that solve seed 0; "
        f"until solved: {_how_many_solved(baseline)}; its speed counts in either case"
    )
    over = ratios(solved_rates, values[_SB3])
    return [
        Result.of(f"{ENV_ID}: training steps/s over {_SB3}'s best", over, "x", f"{how}; {baseline_how}", at_least=15.0),
        *results,
        Result.of(f"{ENV_ID}: {_SB3}'s best", values[_SB3], "steps/s", baseline_how),
        Result.of(f"{ENV_ID}: {_SB3}'s seconds until solved", _seconds_until_solved(baseline), "s", baseline_how),
    ]


def _steps_per_s(found: list[TimedTraining], timed: TimedTraining, name: str, console: Console) -> float:
    found.append(timed)
    _print(f"seed {len(found) - 1}, {name}", timed, console)
    return timed.steps_per_s


def _print(label: str, timed: TimedTraining, console: Console) -> None:
    outcome = f"solved in {timed.seconds:.2f} s" if timed.solved else "not solved"
    line = f"{label}: {timed.steps_per_s:,.0f} steps/s, {outcome}, {timed.env_steps:,} steps"
    console.print(line, highlight=False)


def _how_many_solved(trainings: list[TimedTraining]) -> str:
    return f"{sum(timed.solved for timed in trainings)} of {len(trainings)}"


def _seconds_until_solved(trainings: list[TimedTraining]) -> list[float]:
    return [timed.seconds if timed.solved else float("inf") for timed in trainings]


def _train(seed: int, flags: list[str]) -> TimedTraining:
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        summary = run_training(seed, RunDirectory(Path(directory) / "run"), flags)
    return TimedTraining(summary.solved, summary.env_steps, summary.env_steps / summary.steps_per_s)


def _best_candidate(console: Console) -> Candidate | None:
    """Return the fastest settings that solve seed 0, on one thread or, for the best of them, on two.

    Return None, and print a line, if the library is not installed or no settings solve the environment.
    """
    if not find_spec("stable_baselines3"):
        message = 'no comparison: stable_baselines3 is not installed (pip install -e ".[bench]")'
        console.print(message, highlight=False, markup=False)
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
    command = python_module("scripts.benchmarks.training.sb3_training", arguments)
    environment = child_environment() | {"OMP_NUM_THREADS": str(candidate.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotswapError(f"Stable-Baselines3 could not train: {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=TimedTraining)


def _describe(candidate: Candidate) -> str:
    return ", ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(candidate).items())
