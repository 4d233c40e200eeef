"""Stable-Baselines3's PPO on CartPole-v1, timed from the first environment step until it is solved.

It runs as a program, because the thread counts of torch and numpy are fixed when a process starts:
``python -m scripts.benchmarks.sb3_training CANDIDATE_AS_JSON SEED`` prints a ``TimedTraining`` as JSON.
"""

import sys
import time
from collections.abc import Callable

import msgspec

ENV_ID = "CartPole-v1"
TARGET_RETURN = 475.0
_STEP_LIMIT = 500_000
_LIMIT_S = 30.0  # on a shared machine a second thread may be slower than none


class Candidate(msgspec.Struct, frozen=True):
    """Settings of ``stable_baselines3.PPO`` with its default network, two layers of 64 units."""

    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    learning_rate: float
    gae_lambda: float
    gamma: float = 0.98
    clip_range: float = 0.2
    linear: bool = False
    """Decrease learning rate and clip range linearly to zero over ``total_steps``."""
    total_steps: int = _STEP_LIMIT
    threads: int = 1


class TimedTraining(msgspec.Struct, frozen=True):
    """A training that stopped when the last 100 episodes averaged at least 475 (``solved``), or after 30 seconds."""

    solved: bool
    env_steps: int
    seconds: float

    @property
    def steps_per_s(self) -> float:
        return self.env_steps / self.seconds

    @property
    def solved_s(self) -> float:
        return self.seconds if self.solved else float("inf")


def train(candidate: Candidate, seed: int) -> TimedTraining:
    """Train in this process, on ``candidate.threads`` threads."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(candidate.threads)

    class UntilSolved(BaseCallback):
        """Checks the library's own record of the last 100 episodes after each rollout."""

        solved = False

        def _on_rollout_end(self) -> None:
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            self.solved = len(returns) == 100 and sum(returns) / len(returns) >= TARGET_RETURN

        def _on_step(self) -> bool:
            return not self.solved and time.perf_counter() < began_s + _LIMIT_S

    model = PPO(
        "MlpPolicy",
        make_vec_env(ENV_ID, n_envs=candidate.n_envs, seed=seed),  # in this process: the fastest way for light steps
        **{name: getattr(candidate, name) for name in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda")},
        learning_rate=_decreasing(candidate.learning_rate) if candidate.linear else candidate.learning_rate,
        clip_range=_decreasing(candidate.clip_range) if candidate.linear else candidate.clip_range,
        seed=seed,
        device="cpu",
    )
    until_solved = UntilSolved()
    began_s = time.perf_counter()
    model.learn(candidate.total_steps, callback=until_solved)
    return TimedTraining(until_solved.solved, model.num_timesteps, time.perf_counter() - began_s)


def _decreasing(first: float) -> Callable[[float], float]:
    return lambda progress_remaining: progress_remaining * first


if __name__ == "__main__":
    timed = train(msgspec.json.decode(sys.argv[1], type=Candidate), int(sys.argv[2]))
    sys.stdout.write(msgspec.json.encode(timed).decode())
