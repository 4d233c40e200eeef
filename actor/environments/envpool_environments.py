"""EnvPool's environments (extra ``envpool``): many C++ environments in one call, under Gymnasium's names.

They are other programs than Gymnasium's. They run only on request, and only if name, spaces and time limit are equal.
Seeds give other initial states, rewards are float32, and a step that terminates at the time limit is only truncated.
"""

import contextlib
import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from actor.environments.vector_choice import usable_cores
from shared.errors import ConfigurationError
from shared.policy.spaces import action_spec, observation_leaves
from shared.run.environment_description import creation_of

# EnvPool's seeds are int32, and each environment's seed is one more than that of the environment before it.
_SEEDS = 2**30


class PooledEnvironments(VectorEnv[Any, Any, Any]):
    """Environments of EnvPool with next-step autoreset. Raises ConfigurationError without an equal of ``spec``."""

    def __init__(
        self, spec: EnvSpec, env_id: str, num_envs: int, env_kwargs: dict[str, Any], autoreset: AutoresetMode | None
    ) -> None:
        if autoreset not in (None, AutoresetMode.NEXT_STEP):
            raise ConfigurationError(f"EnvPool resets by {AutoresetMode.NEXT_STEP} only; expected {autoreset}")
        self._envpool = _library(env_id)
        self._name = spec.id
        self._limit = _time_limit(spec, env_kwargs)
        _check_known(self._envpool, spec)
        self.num_envs = num_envs
        self._pool = self._made(seed=0)
        with contextlib.closing(gymnasium.make(env_id, max_episode_steps=self._limit)) as single:
            self.single_observation_space = single.observation_space
            self.single_action_space = single.action_space
        self._check_spaces()
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - EnvPool has none
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment. A seed needs a new pool, which takes milliseconds."""
        if isinstance(seed, list):
            raise ValueError("expected one seed for all environments, found a list")
        if seed is not None:
            self._pool.close()
            self._pool = self._made(seed)
        observation, info = self._pool.reset()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step as Gymnasium's vector environments with next-step autoreset do."""
        observation, reward, terminated, truncated, info = self._pool.step(actions)
        return observation, reward, terminated, truncated, info

    def close_extras(self, **_: Any) -> None:
        self._pool.close()

    def _made(self, seed: int) -> Any:
        with creation_of(self._name), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*precision lowered by casting")  # for every Box, at each call
            pool = self._envpool.make(
                self._name,
                env_type="gymnasium",
                num_envs=self.num_envs,
                num_threads=min(self.num_envs, usable_cores()),
                max_episode_steps=self._limit,
                seed=seed % _SEEDS,
            )
            _ = pool.observation_space, pool.action_space  # created at the first access
            return pool

    def _check_spaces(self) -> None:
        ours = (self.single_observation_space, self.single_action_space)
        theirs = (self._pool.single_observation_space, self._pool.single_action_space)
        leaves, found = ((observation_leaves(observed), action_spec(action)) for observed, action in (ours, theirs))
        if leaves != found:
            self._pool.close()
            raise ConfigurationError(
                f"EnvPool's {self._name} is not Gymnasium's: expected {ours[0]} and {ours[1]}, found {theirs[0]} and "
                f"{theirs[1]}"
            )


def _library(env_id: str) -> ModuleType:
    try:
        import envpool
    except ImportError as error:
        raise ConfigurationError(
            f'--vector envpool steps {env_id} in EnvPool, which is not installed: pip install "rl-hotswap[envpool]" '
            f"({error})"
        ) from error
    library: ModuleType = envpool  # Any, where it is not installed
    return library


def _check_known(library: ModuleType, spec: EnvSpec) -> None:
    origin = str(spec.entry_point).partition(".")[0]
    if origin != "gymnasium" or spec.additional_wrappers:
        raise ConfigurationError(f"use --vector auto: {spec.id} is not Gymnasium's own, so EnvPool has no equal of it")
    if spec.id not in library.list_all_envs():
        stem = spec.id.rpartition("-v")[0]
        others = [known for known in library.list_all_envs() if known.rpartition("-v")[0] == stem]
        has = f"; its {' and '.join(others)} is another task" if others else ""
        raise ConfigurationError(f"use --vector auto: EnvPool has no {spec.id}{has}")


def _time_limit(spec: EnvSpec, env_kwargs: dict[str, Any]) -> int:
    """Return the most steps of an episode, the only setting that EnvPool's environments share with Gymnasium's."""
    others = sorted(set(env_kwargs) - {"max_episode_steps"})
    if others:
        raise ConfigurationError(f"use --vector auto: EnvPool's {spec.id} does not know {', '.join(others)}")
    limit = env_kwargs.get("max_episode_steps", spec.max_episode_steps)
    if not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"EnvPool's {spec.id} needs a max_episode_steps of 1 or more, found {limit}")
    return limit
