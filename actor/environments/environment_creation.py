"""The creation of a batch of environments in one of its vectorised forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from loguru import logger

from actor.environments.environments import Environments
from actor.environments.process_environments import ProcessEnvironments
from actor.environments.vector_choice import VectorChoice, async_pays, mean_step_s, usable_cores
from shared.errors import ConfigurationError
from shared.run.environment_description import creation_of, find_environment

_Vector = VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class _Request:
    spec: EnvSpec
    env_id: str
    num_envs: int
    kwargs: dict[str, Any]
    autoreset: AutoresetMode | None


def make_environments(
    env_id: str,
    num_envs: int,
    *,
    vector: VectorChoice = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    autoreset: AutoresetMode | None = None,
    measure: bool = False,
) -> Environments:
    """Create ``num_envs`` environments that are stepped together, and log the choice of their form.

    Args:
        vector: the form. ``auto`` uses the environment's vector entry point if it is suitable, else SyncVectorEnv, or
            AsyncVectorEnv if a measured step is slow enough; never EnvPool, whose environments are other programs.
        autoreset: the mode; None leaves it to the entry point or EnvPool; other forms then reset in the same step.
        measure: True to let ``auto`` measure a step; False never uses processes.

    Raises:
        ConfigurationError, EnvironmentFailed: the environments cannot be created.
    """
    if num_envs < 1:
        raise ConfigurationError(f"expected at least one environment, found {num_envs}")
    request = _Request(find_environment(env_id), env_id, num_envs, dict(env_kwargs or {}), autoreset)
    form, reason = str(vector), f"--vector {vector}"
    match vector:
        case "auto":
            made, form, reason = _choose(request, measure=measure)
        case "entry_point":
            made = _from_entry_point(request)
        case "envpool":
            from actor.environments.envpool_environments import PooledEnvironments

            made = PooledEnvironments(request.spec, env_id, num_envs, request.kwargs, autoreset)
        case _:
            made = _from_single(request, vector)
    logger.info("environments created env={} num_envs={} vector={} reason={}", env_id, num_envs, form, reason)
    return Environments(made, env_id)


def _choose(request: _Request, *, measure: bool) -> tuple[_Vector, VectorChoice, str]:
    refusal = "no vector entry point"
    if request.spec.entry_point is None:
        return _from_entry_point(request), "entry_point", "the only form"
    if request.spec.vector_entry_point is not None and request.num_envs > 1:
        try:
            return _from_entry_point(request), "entry_point", "the fastest form"
        except ConfigurationError as error:
            refusal = str(error)
    if request.num_envs == 1:
        return _from_single(request, "sync"), "sync", "one environment"
    if not measure:
        return _from_single(request, "sync"), "sync", f"{refusal}; not measured"
    step_s = mean_step_s(request.env_id, request.kwargs)
    choice: VectorChoice = "async" if async_pays(step_s, request.num_envs, cores := usable_cores()) else "sync"
    return _from_single(request, choice), choice, f"{refusal}; step_us={step_s * 1e6:.0f} cores={cores}"


def _from_single(request: _Request, choice: VectorChoice) -> _Vector:
    if request.spec.entry_point is None:
        raise ConfigurationError(f"{request.env_id} exists only as a vector environment: use --vector entry_point")
    mode = request.autoreset or AutoresetMode.SAME_STEP
    with creation_of(request.env_id):
        if choice == "async":
            return ProcessEnvironments(request.env_id, request.num_envs, request.kwargs, mode)
        kwargs = {"disable_env_checker": True, **request.kwargs}
        modes = {"autoreset_mode": mode, "copy": False}
        return gymnasium.make_vec(request.env_id, request.num_envs, "sync", vector_kwargs=modes, **kwargs)


def _from_entry_point(request: _Request) -> _Vector:
    """Return the environment's own vectorised form. Raise ConfigurationError without a suitable one."""
    env_id = request.env_id
    if request.spec.vector_entry_point is None:
        raise ConfigurationError(f"{env_id} has no vector entry point: use --vector sync, async or auto")
    with creation_of(env_id):
        vector = gymnasium.make_vec(env_id, request.num_envs, "vector_entry_point", **request.kwargs)
    found = vector.metadata.get("autoreset_mode")
    if isinstance(found, AutoresetMode) and request.autoreset in (None, found):
        return vector
    vector.close()
    expected = request.autoreset or "a mode of Gymnasium"
    raise ConfigurationError(f"the vector entry point of {env_id} resets itself by {found}; expected {expected}")
