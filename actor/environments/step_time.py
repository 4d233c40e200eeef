"""How long a step of an environment takes here."""

import time
from collections.abc import Mapping
from typing import Any

import gymnasium

from shared.run.environment_description import creation_of

_BUDGET_S = 0.1
_LEAST_STEPS = 3


def mean_step_s(env_id: str, env_kwargs: Mapping[str, Any]) -> float:
    """Mean seconds of a step, resets included, of one environment that is made for this and acts at random.

    Takes about a tenth of a second, or three steps. Raises ConfigurationError.
    """
    with creation_of(env_id):
        env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **{"disable_env_checker": True, **env_kwargs})
        try:
            _, info = env.reset(seed=0)
            steps = 0
            began_s = time.perf_counter()
            while steps < _LEAST_STEPS or time.perf_counter() - began_s < _BUDGET_S:
                action = env.action_space.sample(mask=info.get("action_mask"))
                _, _, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    _, info = env.reset()
                steps += 1
            return (time.perf_counter() - began_s) / steps
        finally:
            env.close()
