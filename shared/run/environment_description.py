"""Spaces, action masks and reward threshold of an environment, by its id: ``EnvId-v0``, or ``module:EnvId-v0``."""

import contextlib
import difflib
import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec
from loguru import logger

from shared.errors import ConfigurationError, HotswapError
from shared.policy.spaces import ActionSpec, ObservationLeaf, action_spec, observation_leaves

_OUR_EXTRAS = frozenset({"box2d"})
_GYMNASIUM_EXTRA = re.compile(r"gymnasium\[([a-z0-9_-]+)\]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Namespaces of ids whose package has to be installed and imported: its name, and the module.
_NAMESPACES = {"ALE": ("gymnasium[atari]", "ale_py")}


class EnvironmentDescription(NamedTuple):
    """An environment as policies see it. ``masked`` is True when ``info["action_mask"]`` comes with observations."""

    leaves: tuple[ObservationLeaf, ...]
    action: ActionSpec
    masked: bool
    reward_threshold: float | None


def describe_environment(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> EnvironmentDescription:
    """Create the environment, reset it once, and return its description.

    Raises ConfigurationError for an unknown id (with similar ids), for an environment that cannot be created (with the
    package to install), and for unsupported spaces.
    """
    spec = find_environment(env_id)
    vector = spec.entry_point is None
    with creation_of(env_id):
        make: Any = partial(gymnasium.make_vec, num_envs=1) if vector else gymnasium.make
        env: Any = make(env_id, **(env_kwargs or {}))
    with contextlib.closing(env):
        leaves = observation_leaves(env.single_observation_space if vector else env.observation_space)
        action = action_spec(env.single_action_space if vector else env.action_space)
        with creation_of(env_id):
            _, info = env.reset(seed=0)
    masked = "action_mask" in info and action.mask_shape is not None
    return EnvironmentDescription(leaves, action, masked, spec.reward_threshold)


def find_environment(env_id: str) -> EnvSpec:
    """Return the registry entry of ``env_id`` after importing its module, if any. Raises ConfigurationError."""
    module, separator, name = env_id.rpartition(":")
    if separator:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ConfigurationError(
                f"install {module!r} or put it on PYTHONPATH: cannot import it to register {env_id!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    spec = gymnasium.registry.get(name)
    if spec is None:
        raise ConfigurationError(_unknown(name))
    return spec


@contextlib.contextmanager
def creation_of(env_id: str) -> Iterator[None]:
    """Map exceptions raised while an environment is created to ConfigurationError, and its warnings to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except HotswapError:
            raise
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigurationError(_missing_dependency(env_id, str(error))) from error
        except Exception as error:
            raise ConfigurationError(f"cannot make {env_id}: {type(error).__name__}: {error}") from error
    for category, message in dict.fromkeys((warning.category, str(warning.message)) for warning in caught):
        level = "DEBUG" if issubclass(category, DeprecationWarning) else "WARNING"
        logger.log(level, "environment warning env={} warning={}", env_id, _COLOUR.sub("", message))


def _unknown(name: str) -> str:
    message = f"there is no environment {name!r}"
    if near := _near_misses(name):
        message = f"did you mean {' or '.join(near)}? {message}"
    package, module = _NAMESPACES.get(name.partition("/")[0], (None, None))
    if package is not None:
        return f'run pip install "{package}", then --env {module}:{name}: {message}'
    if near:
        return message
    return (
        f"name an environment of another package as module:EnvId-v0, after the module that registers it: {message}; "
        'python -c "import gymnasium; gymnasium.pprint_registry()" lists those of Gymnasium'
    )


def _near_misses(name: str) -> list[str]:
    """Return up to three registered ids, other versions of the same name first."""
    ids = {env_id.lower(): env_id for env_id in gymnasium.registry}
    wanted = name.lower()
    stem = re.sub(r"-v\d+$", "", wanted)
    same_name = [i for i in ids if re.sub(r"-v\d+$", "", i) == stem]
    same_name.sort(key=lambda i: int(i.rpartition("-v")[2]) if i != stem else -1, reverse=True)
    close = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.7)
    return [ids[i] for i in dict.fromkeys([*same_name, *close])][:3]


def _missing_dependency(env_id: str, message: str) -> str:
    extra = _GYMNASIUM_EXTRA.search(message)
    if extra is None:
        return f"install the package that {env_id} needs: {message}"
    package = "rl-hotswap" if extra[1] in _OUR_EXTRAS else "gymnasium"
    return f'run pip install "{package}[{extra[1]}]": {env_id} needs a package that is not installed'
