"""Making a batch of environments: which of its vectorised forms an environment is run in."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv
from loguru import logger

from actor.environments import Environments
from shared.environment_probe import creation_of, find_environment
from shared.errors import ConfigurationError


def make_environments(
    env_id: str,
    num_envs: int,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    autoreset: AutoresetMode | None = None,
) -> Environments:
    """``num_envs`` environments in this process: the vector entry point where there is one, SyncVectorEnv otherwise.

    ``autoreset`` None leaves the mode to a vector entry point, and is same-step otherwise (no step is spent on a
    reset). A vector entry point that has another mode than the one asked for gives way to SyncVectorEnv; so it does for
    a single environment, which is stepped faster alone than as a batch of one. Raises ConfigurationError.
    """
    if num_envs < 1:
        raise ConfigurationError(f"expected at least one environment, found {num_envs}")
    spec = find_environment(env_id)
    kwargs = dict(env_kwargs or {})
    vector = None
    if spec.vector_entry_point is not None and (num_envs > 1 or spec.entry_point is None):
        vector = _from_entry_point(env_id, num_envs, kwargs, autoreset, alone=spec.entry_point is None)
    if vector is None:
        mode = autoreset or AutoresetMode.SAME_STEP
        settings = {"autoreset_mode": mode, "copy": False}
        with creation_of(env_id):
            vector = gymnasium.make_vec(
                env_id, num_envs, "sync", vector_kwargs=settings, **{"disable_env_checker": True, **kwargs}
            )
    return Environments(vector, env_id)


def _from_entry_point(
    env_id: str, num_envs: int, kwargs: dict[str, Any], autoreset: AutoresetMode | None, *, alone: bool
) -> VectorEnv[Any, Any, Any] | None:
    """The environment's own vectorised form, or None where it does not suit and there is another (not ``alone``)."""
    with creation_of(env_id):
        try:
            vector = gymnasium.make_vec(env_id, num_envs, "vector_entry_point", **kwargs)
        except (TypeError, gymnasium.error.Error) as error:
            if alone:
                raise
            logger.debug("{}: its vector entry point refused, stepping them one by one: {}", env_id, error)
            return None
    found = vector.metadata.get("autoreset_mode")
    if isinstance(found, AutoresetMode) and autoreset in (None, found):
        return vector
    vector.close()
    if alone:
        raise ConfigurationError(
            f"{env_id} exists only as a vector environment, which resets itself by {found}; "
            f"expected {autoreset or 'one of Gymnasium AutoresetMode'}"
        )
    return None
