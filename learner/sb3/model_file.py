"""Files that Stable-Baselines3 saved: read with their pickles if the user trusts them, else the weights only.

``model.zip`` holds ``data`` (JSON with pickles of values that are not plain) and ``policy.pth`` (a state dict).
"""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.ars.policies import ARSPolicy
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from shared.errors import ConfigurationError, NotTrusted, WeightsError, one_line

_CLASSES: tuple[type[BaseAlgorithm], ...] = (
    *(PPO, A2C, DQN, SAC, TD3, DDPG),
    *(TRPO, ARS, TQC, QRDQN, CrossQ, MaskablePPO, RecurrentPPO),
)
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {cls.__name__: cls for cls in _CLASSES}

_BY_POLICY_MODULE = {
    "stable_baselines3.dqn.policies": "DQN",
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3",
    "sb3_contrib.ars.policies": "ARS",
    "sb3_contrib.tqc.policies": "TQC",
    "sb3_contrib.qrdqn.policies": "QRDQN",
    "sb3_contrib.crossq.policies": "CrossQ",
    "sb3_contrib.common.maskable.policies": "MaskablePPO",
    "sb3_contrib.common.recurrent.policies": "RecurrentPPO",
}
_PICKLED = ":serialized:"
_NOT_SETTINGS = {":type:", _PICKLED, "optimizer_class", "optimizer_kwargs"}
_MAX_DATA_BYTES = 64 * 2**20


def load_model(path: Path, *, trust_pickle: bool, algorithm: str | None = None) -> BaseAlgorithm:
    """Load a model and its pickles. Raises NotTrusted unless ``trust_pickle``, ConfigurationError if it is no model."""
    name = algorithm or guess_algorithm(path)
    _require_trust(path, trust_pickle, "a model of Stable-Baselines3 holds pickles")
    cls = _algorithm(name)
    try:
        # The replay buffer is not used, and may be larger than the memory of this machine.
        return cls.load(path, device="cpu", custom_objects={"buffer_size": 1})
    except Exception as error:  # unpickling runs any code
        raise ConfigurationError(f"{path} cannot be loaded as {name}: {type(error).__name__}: {error}") from error


def load_weights(
    path: Path,
    *,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    algorithm: str | None = None,
    policy: str = "MlpPolicy",
) -> BasePolicy:
    """Build a policy for the environment's spaces and load the file's weights into it. Nothing is unpickled.

    DQN acts greedily: its exploration rate is no weight. Raises NotTrusted if the file's ``policy_kwargs`` are pickled,
    WeightsError if the weights do not fit the policy.
    """
    data = _read_data(path)
    cls = _algorithm(algorithm or guess_algorithm(path))
    policy_class = cls.policy_aliases.get(policy)
    if policy_class is None:
        raise ConfigurationError(f"{cls.__name__} has the policies {', '.join(cls.policy_aliases)}; found {policy!r}")
    settings = _plain_settings(path, data)
    make: Any = policy_class
    # ARS, which has no gradients, takes no schedule of a learning rate.
    schedule = () if issubclass(policy_class, ARSPolicy) else (lambda _: 0.0,)
    built: BasePolicy = make(_model_space(observation_space), action_space, *schedule, **settings)
    try:
        with zipfile.ZipFile(path) as archive:
            state = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        built.load_state_dict(state)
    except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not the weights of a {cls.__name__} {policy}: {error}") from error
    return built


def load_vec_normalize(path: Path, *, trust_pickle: bool) -> VecNormalize:
    """Load a VecNormalize. Raises NotTrusted unless ``trust_pickle``, ConfigurationError for any other file."""
    _require_trust(path, trust_pickle, "VecNormalize.save writes pickles")
    try:
        found = pickle.loads(path.read_bytes())
    except Exception as error:  # unpickling runs any code
        raise ConfigurationError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, VecNormalize):
        raise ConfigurationError(f"{path}: expected a VecNormalize, found a {type(found).__name__}")
    return found


def guess_algorithm(path: Path) -> str:
    """Return the algorithm's name, by the module of its policy, which is plain text. Raises ConfigurationError."""
    data = _read_data(path)
    policy_class = data.get("policy_class")
    module = policy_class.get("__module__", "") if isinstance(policy_class, dict) else ""
    if module == "stable_baselines3.common.policies":
        return "PPO" if "clip_range" in data else "TRPO" if "cg_max_steps" in data else "A2C"
    if (
        module == "stable_baselines3.td3.policies"
        and data.get("policy_delay") == 1
        and not data.get("target_noise_clip")
    ):
        return "DDPG"  # TD3 without its three changes
    package, _, inside = module.partition(".")
    if package == "sb3_contrib" and module not in _BY_POLICY_MODULE:
        raise _unsupported(inside.partition(".")[0].upper())
    if module not in _BY_POLICY_MODULE:
        raise ConfigurationError(
            f"name the algorithm with --algorithm {'|'.join(ALGORITHMS)}. "
            f"{path}: the policy class is of {module or 'no module'}"
        )
    return _BY_POLICY_MODULE[module]


def _read_data(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > _MAX_DATA_BYTES:
                raise ConfigurationError(f"{path}: its data has more than {_MAX_DATA_BYTES} bytes")
            data = json.loads(archive.read("data"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path} is no model that Stable-Baselines3 saved: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path} is no model that Stable-Baselines3 saved: its data is no JSON object")
    return data


def _plain_settings(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Return ``policy_kwargs`` without the optimizer's. In the file, other than plain values are pickles and texts."""
    saved: dict[str, Any] = data.get("policy_kwargs") or {}
    settings = {name: value for name, value in saved.items() if name not in _NOT_SETTINGS}
    if _PICKLED in saved and any(isinstance(value, str) for value in settings.values()):
        raise NotTrusted(
            "allow pickles with --trust-pickle if you trust the author of the file. "
            f"{path}: its policy_kwargs are pickled"
        )
    return {**settings, "use_sde": True} if data.get("use_sde") else settings


def _algorithm(name: str) -> type[BaseAlgorithm]:
    if name not in ALGORITHMS:
        raise _unsupported(name)
    return ALGORITHMS[name]


def _unsupported(name: str) -> ConfigurationError:
    return ConfigurationError(
        "publish the model's network with publish_policy, or train with one of "
        f"{', '.join(ALGORITHMS)}: {one_line(repr(name), 40)} is not supported"
    )


def _require_trust(path: Path, trust_pickle: bool, why: str) -> None:
    if not trust_pickle:
        raise NotTrusted(
            f"allow it with --trust-pickle if you trust the author of the file. {path}: {why}, which run as code when "
            "they are read"
        )


def _model_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _model_space(child) for key, child in space.items()})
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space
