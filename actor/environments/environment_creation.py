"""Making a batch of environments: in which of its vectorised forms an environment is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from loguru import logger

from actor.environments.environments import Environments
from actor.environments.process_environments import ProcessEnvironments
from actor.environments.step_time import mean_step_s
from actor.environments.vector_choice import VectorChoice, async_pays, usable_cores
from shared.errors import ConfigurationError
from shared.run.environment_description import creation_of, find_environment

_Vector = VectorEnv[Any, Any, Any]


def make_environments(
    env_id: str,
    num_envs: int,
    *,
    vector: VectorChoice = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    autoreset: AutoresetMode | None = None,
    measure: bool = False,
) -> Environments:
    """``num_envs`` environments, stepped together as ``vector`` says; the log says in one line how, and why.

    ``auto``: the environment's own vector entry point where there is one that suits; else one after another
    (SyncVectorEnv) or, where a step that is measured to be slow makes up for the messages, in a process each
    (AsyncVectorEnv). Without ``measure`` no clock decides: never in processes. A single environment is stepped alone,
    which is faster than as a batch of one. EnvPool has to be asked for: what it has under an environment's name is
    another program, and nobody's task is to change unnoticed.

    ``autoreset`` None leaves the mode to an entry point and to EnvPool, and is same-step otherwise (no step is spent on
    a reset). Raises ConfigurationError for what cannot be made, and EnvironmentFailed.
    """
    if num_envs < 1:
        raise ConfigurationError(f"expected at least one environment, found {num_envs}")
    wanted = _Wanted(find_environment(env_id), env_id, num_envs, dict(env_kwargs or {}), autoreset)
    match vector:
        case "auto":
            made, how = _choose(wanted, measure=measure)
        case "entry_point":
            made, how = _from_entry_point(wanted), "in its vector entry point: --vector entry_point"
        case "envpool":
            from actor.environments.envpool_environments import PooledEnvironments

            made = PooledEnvironments(wanted.spec, env_id, num_envs, wanted.kwargs, autoreset)
            how = "in EnvPool: --vector envpool"
        case _:
            made, how = _from_single(wanted, vector), f"{_HOW[vector]}: --vector {vector}"
    logger.info("{} of {} {}", num_envs, env_id, how)
    return Environments(made, env_id)


@dataclass(frozen=True)
class _Wanted:
    spec: EnvSpec
    env_id: str
    num_envs: int
    kwargs: dict[str, Any]
    autoreset: AutoresetMode | None


_HOW: dict[VectorChoice, str] = {
    "sync": "one after another (SyncVectorEnv)",
    "async": "in a process each (AsyncVectorEnv)",
}


def _choose(wanted: _Wanted, *, measure: bool) -> tuple[_Vector, str]:
    """What ``auto`` takes, and how and why in words."""
    only_vector = wanted.spec.entry_point is None
    refusal = "it has no vector entry point"
    if only_vector:
        return _from_entry_point(wanted), "in its vector entry point: it has no other form"
    if wanted.spec.vector_entry_point is not None and wanted.num_envs > 1:
        try:
            return _from_entry_point(wanted), "in its vector entry point, the fastest form it has"
        except ConfigurationError as error:
            refusal = str(error)
    if wanted.num_envs == 1:
        return _from_single(wanted, "sync"), "alone"
    if not measure:
        return _from_single(wanted, "sync"), f"{_HOW['sync']}: {refusal}, and no clock is to decide more"
    step_s = mean_step_s(wanted.env_id, wanted.kwargs)
    cores = usable_cores()
    choice: VectorChoice = "async" if async_pays(step_s, wanted.num_envs, cores) else "sync"
    return (
        _from_single(wanted, choice),
        f"{_HOW[choice]}: {refusal}; a step takes {step_s * 1e6:.0f} µs, and there are {cores} cores",
    )


def _from_single(wanted: _Wanted, choice: VectorChoice) -> _Vector:
    """Single environments, stepped in turn or in a process each."""
    if wanted.spec.entry_point is None:
        raise ConfigurationError(f"{wanted.env_id} exists only as a vector environment: --vector entry_point, or auto")
    mode = wanted.autoreset or AutoresetMode.SAME_STEP
    with creation_of(wanted.env_id):
        if choice == "async":
            return ProcessEnvironments(wanted.env_id, wanted.num_envs, wanted.kwargs, mode)
        return gymnasium.make_vec(
            wanted.env_id,
            wanted.num_envs,
            "sync",
            vector_kwargs={"autoreset_mode": mode, "copy": False},
            **{"disable_env_checker": True, **wanted.kwargs},
        )


def _from_entry_point(wanted: _Wanted) -> _Vector:
    """The environment's own vectorised form. Raises ConfigurationError where there is none, or none that suits."""
    env_id = wanted.env_id
    if wanted.spec.vector_entry_point is None:
        raise ConfigurationError(f"{env_id} has no vector entry point: --vector sync, async or auto")
    with creation_of(env_id):
        vector = gymnasium.make_vec(env_id, wanted.num_envs, "vector_entry_point", **wanted.kwargs)
    found = vector.metadata.get("autoreset_mode")
    if isinstance(found, AutoresetMode) and wanted.autoreset in (None, found):
        return vector
    vector.close()
    raise ConfigurationError(
        f"the vector entry point of {env_id} resets itself by {found}; expected "
        f"{wanted.autoreset or 'one of Gymnasium AutoresetMode'}"
    )
