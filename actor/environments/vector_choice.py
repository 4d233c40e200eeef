"""The choice of how to step several environments, and the measurement behind ``auto``."""

import math
import os
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

from shared.errors import EnvironmentFailed

VectorChoice = Literal["auto", "entry_point", "sync", "async", "envpool"]
MESSAGES_S = 100e-6  # the cost of a step in another process: two messages and two context switches
# Learners and other actors need cores too, and each process needs memory, so the gain has to be clear.
_CLEARLY_FASTER = 1.5
_BUDGET_S = 0.1
_LEAST_STEPS = 3


def async_pays(step_s: float, num_envs: int, cores: int) -> bool:
    """Return True when environments with steps of ``step_s`` seconds are faster in a process each than in turn."""
    in_turn_s = num_envs * step_s
    in_processes_s = num_envs * MESSAGES_S + math.ceil(num_envs / cores) * step_s
    return in_processes_s * _CLEARLY_FASTER < in_turn_s


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mean_step_s(env_id: str, env_kwargs: Mapping[str, Any]) -> float:
    """Return the mean seconds of a step, resets included, of a new environment with random actions.

    Takes about a tenth of a second, or three steps. Raises ConfigurationError if the environment cannot be created,
    EnvironmentFailed if it raises in a step.
    """
    import gymnasium  # late imports: the flags of every command use this module

    from actor.environments.environments import describe_error
    from shared.run.environment_description import creation_of

    kwargs = {"disable_env_checker": True, **env_kwargs}
    with creation_of(env_id):
        made = gymnasium.make(env_id, **kwargs)
    with closing(made) as env:
        with creation_of(env_id):
            _, info = env.reset(seed=0)
        steps = 0
        began_s = time.perf_counter()
        try:
            while steps < _LEAST_STEPS or time.perf_counter() - began_s < _BUDGET_S:
                action = env.action_space.sample(mask=info.get("action_mask"))
                _, _, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    _, info = env.reset()
                steps += 1
        except Exception as error:
            raise EnvironmentFailed(f"{env_id} raised {describe_error(error)}, in step {steps + 1}") from error
        return (time.perf_counter() - began_s) / steps
