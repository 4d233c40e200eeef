"""EnvPool's environments (extra ``envpool``): C++, many at once, under the names that Gymnasium gives them.

They are other programs than Gymnasium's, so they run only where they were asked for, and only where all that can be
compared is the same: name, spaces and time limit. What cannot be: EnvPool draws other initial states from a seed,
rewards are rounded to float32, and a step that both terminates an episode and reaches its limit is truncated only.
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

# EnvPool's seeds are int32, and each environment's is one more than that of the one before it.
_SEEDS = 2**30


class PooledEnvironments(VectorEnv[Any, Any, Any]):
    """``num_envs`` environments of EnvPool's that reset themselves in the step after an episode's last.

    Raises ConfigurationError where EnvPool is not installed, or has no environment that is Gymnasium's ``spec``.
    """

    def __init__(
        self, spec: EnvSpec, env_id: str, num_envs: int, env_kwargs: dict[str, Any], autoreset: AutoresetMode | None
    ) -> None:
        if autoreset not in (None, AutoresetMode.NEXT_STEP):
            raise ConfigurationError(f"EnvPool resets by {AutoresetMode.NEXT_STEP} alone; expected {autoreset}")
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
        options: dict[str, Any] | None = None,  # noqa: ARG002  there are none here
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode everywhere. A seed makes the pool anew (milliseconds): EnvPool takes one only then."""
        if isinstance(seed, list):
            raise ValueError("expected one seed for all environments, found a list")
        if seed is not None:
            self._pool.close()
            self._pool = self._made(seed)
        observation, info = self._pool.reset()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As Gymnasium's vector environments with next-step autoreset."""
        observation, reward, terminated, truncated, info = self._pool.step(actions)
        return observation, reward, terminated, truncated, info

    def close_extras(self, **_: Any) -> None:
        self._pool.close()

    def _made(self, seed: int) -> Any:
        with creation_of(self._name), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*precision lowered by casting")  # of every box's bounds, each time
            pool = self._envpool.make(
                self._name,
                env_type="gymnasium",
                num_envs=self.num_envs,
                num_threads=min(self.num_envs, usable_cores()),
                max_episode_steps=self._limit,
                seed=seed % _SEEDS,
            )
            _ = pool.observation_space, pool.action_space  # made when they are first asked for
            return pool

    def _check_spaces(self) -> None:
        ours = (observation_leaves(self.single_observation_space), action_spec(self.single_action_space))
        theirs = (observation_leaves(self._pool.single_observation_space), action_spec(self._pool.single_action_space))
        if ours != theirs:
            self._pool.close()
            raise ConfigurationError(
                f"EnvPool's {self._name} is not Gymnasium's: expected {self.single_observation_space} and "
                f"{self.single_action_space}, found {self._pool.single_observation_space} and "
                f"{self._pool.single_action_space}"
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
        raise ConfigurationError(f"{spec.id} is not Gymnasium's own, so nothing of EnvPool's can be known to be it")
    if spec.id not in library.list_all_envs():
        stem = spec.id.rpartition("-v")[0]
        others = [known for known in library.list_all_envs() if known.rpartition("-v")[0] == stem]
        has = f"; {' and '.join(others)}, which it has, is another task" if others else ""
        raise ConfigurationError(f"EnvPool has no {spec.id}{has}. --vector auto runs Gymnasium's")


def _time_limit(spec: EnvSpec, env_kwargs: dict[str, Any]) -> int:
    """Steps of an episode at most: the only thing that can be asked of an environment here."""
    others = sorted(set(env_kwargs) - {"max_episode_steps"})
    if others:
        raise ConfigurationError(f"EnvPool's {spec.id} does not know Gymnasium's {', '.join(others)}: --vector auto")
    limit = env_kwargs.get("max_episode_steps", spec.max_episode_steps)
    if not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"EnvPool's {spec.id} needs a max_episode_steps of 1 or more; found {limit}")
    return limit
