"""How many environment steps a training learns from in a second, until CartPole-v1 is solved, beside Stable-Baselines3.

Ours is a whole ``scripts/train.py`` run: a learner and one actor, each a process, on two cores. Theirs is the best of
several settings of their PPO, each in a process of its own. Both count from the first environment step until the last
100 episodes average 475; settings that do not get there do not count.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from rl_hotswap.launcher.child_process import CHECKOUT, child_environment, python_module
from scripts.benchmarks.result import Result
from scripts.benchmarks.rounds import interleave, ratios
from scripts.benchmarks.sb3_training import ENV_ID, TARGET_RETURN, Candidate, TimedTraining
from scripts.benchmarks.settings import BenchmarkSettings
from shared.errors import HotswapError
from shared.run.run_directory import RunDirectory

# As much as the learner's core can learn from: many environments stepped as one, one pass over large batches, and
# actors that do not wait for it.
THROUGHPUT = (
    "--async",
    "--envs-per-actor=1024",
    "--rollout-length=16",
    "--batch-steps=16384",
    "--minibatch-size=2048",
    "--epochs=1",
    "--shared-trunk",
    "--publish-every-updates=2",
)

# The first is RL Baselines3 Zoo's; the others take fewer and larger steps, as far as they still solve it.
CANDIDATES = {
    "zoo": Candidate(8, 32, 256, 20, 1e-3, gae_lambda=0.8, linear=True, total_steps=100_000),
    "64 environments": Candidate(64, 32, 512, 5, 3e-3, gae_lambda=0.9),
    "128 environments": Candidate(128, 32, 1024, 4, 3e-3, gae_lambda=0.9),
    "256 environments, two epochs": Candidate(256, 16, 1024, 2, 3e-3, gae_lambda=0.9),
}


_MOST_ROUNDS = 5  # each is a training of ours and one of theirs


def measure_training(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Find Stable-Baselines3's best settings, then train with both in turn. Raises HotswapError where ours fails."""
    flags = (*THROUGHPUT, *settings.training_flags)
    rounds = min(settings.rounds, _MOST_ROUNDS)
    command = f"scripts/train.py --env {ENV_ID} {' '.join(flags)}, seeds 0 to {rounds - 1}"
    ours: list[TimedTraining] = []
    measurements: dict[str, Callable[[], float]] = {
        "ours": lambda: _steps_per_s(ours, _train(len(ours), flags), "ours", console)
    }
    best = None
    if not find_spec("stable_baselines3"):
        missing = 'stable_baselines3 is not installed (pip install -e ".[bench]"): nothing to compare with'
        console.print(missing, highlight=False, markup=False)
    elif (best := _best_candidate(console)) is not None:
        theirs: list[TimedTraining] = []
        measurements["theirs"] = lambda: _steps_per_s(theirs, _train_sb3(best, len(theirs)), "theirs", console)
    values = interleave(measurements, rounds)
    how = f"{command}, until solved: {_how_many_solved(ours)}"
    rows = [
        Result.of(f"{ENV_ID}: steps learned from, until solved", values["ours"], "steps/s", how),
        Result.of(f"{ENV_ID}: seconds until then", _seconds_until_solved(ours), "s", how),
    ]
    if best is None:
        return rows
    their_how = (
        f"stable_baselines3.PPO, {_describe(best)}, the fastest of {len(CANDIDATES) + 1} settings that solve seed 0; "
        f"until solved: {_how_many_solved(theirs)}, where not, the speed counts all the same"
    )
    return [
        Result.of(
            f"{ENV_ID}: training steps/s over Stable-Baselines3's best",
            ratios(values["ours"], values["theirs"]),
            "x",
            f"{how}; {their_how}",
            at_least=15.0,
        ),
        *rows,
        Result.of(f"{ENV_ID}: Stable-Baselines3's best", values["theirs"], "steps/s", their_how),
        Result.of(f"{ENV_ID}: its seconds until solved", _seconds_until_solved(theirs), "s", their_how),
    ]


def _steps_per_s(kept: list[TimedTraining], timed: TimedTraining, whose: str, console: Console) -> float:
    """Keep ``timed``, say it, and give its rate; ours is 0 where it did not solve the environment."""
    kept.append(timed)
    invariants = f"solved in {timed.seconds:.2f} s" if timed.solved else "not solved"
    console.print(
        f"seed {len(kept) - 1}, {whose}: {timed.steps_per_s:,.0f} steps/s, {invariants}, {timed.env_steps:,} steps",
        highlight=False,
    )
    return timed.steps_per_s if timed.solved or whose != "ours" else 0.0


def _how_many_solved(trainings: list[TimedTraining]) -> str:
    return f"{sum(timed.solved for timed in trainings)} of {len(trainings)}"


def _seconds_until_solved(trainings: list[TimedTraining]) -> list[float]:
    return [timed.seconds if timed.solved else float("inf") for timed in trainings]


def _train(seed: int, flags: tuple[str, ...]) -> TimedTraining:
    with tempfile.TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        run = RunDirectory(Path(directory) / "run")
        command = [sys.executable, str(CHECKOUT / "scripts" / "train.py"), f"--env={ENV_ID}", f"--seed={seed}"]
        command += [f"--run-dir={run.path}", f"--target-return={TARGET_RETURN}", *flags]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
        summary = run.summary()
    if summary is None:
        raise HotswapError(f"training with seed {seed} gave no summary: {done.stderr.strip() or done.stdout[-500:]}")
    return TimedTraining(summary.solved, summary.env_steps, summary.env_steps / summary.steps_per_s)


def _best_candidate(console: Console) -> Candidate | None:
    """The one with the most steps a second of those that solve seed 0: on one thread, and the best of them on two.

    None, with a line, where none does.
    """
    found: dict[float, Candidate] = {}

    def consider(name: str, candidate: Candidate) -> None:
        timed = _train_sb3(candidate, 0)
        invariants = f"solved in {timed.seconds:.1f} s" if timed.solved else "not solved"
        console.print(f"Stable-Baselines3, {name}: {timed.steps_per_s:,.0f} steps/s, {invariants}", highlight=False)
        if timed.solved:
            found[timed.steps_per_s] = candidate

    for name, candidate in CANDIDATES.items():
        consider(name, candidate)
    if not found:
        console.print("none of Stable-Baselines3's settings solved the environment in time: nothing to compare with")
        return None
    consider("the best so far, on two threads", replace(found[max(found)], threads=2))
    return found[max(found)]


def _train_sb3(candidate: Candidate, seed: int) -> TimedTraining:
    command = python_module("scripts.benchmarks.sb3_training", [msgspec.json.encode(candidate).decode(), str(seed)])
    environment = child_environment() | {"OMP_NUM_THREADS": str(candidate.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HotswapError(f"Stable-Baselines3 could not train: {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=TimedTraining)


def _describe(candidate: Candidate) -> str:
    return ", ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(candidate).items())
