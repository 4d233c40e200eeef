"""Policies in the files of other libraries, read by the kind of the file.

- ``model.zip``: Stable-Baselines3 or sb3-contrib
- a directory: a checkpoint of RLlib's new API stack
- ``agent_file.py:Class`` with the state dict in ``weights``: CleanRL

A module of TorchRL has no files of its own: ``as_policy`` adapts it after it is constructed.
"""

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces
from torch import nn

from shared.errors import ConfigurationError

Library = Literal["sb3", "rllib", "cleanrl", "torchrl"]
Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]
"""Observation and action space of one environment."""

_PACKAGES: dict[Library, tuple[str, ...]] = {
    "sb3": ("stable_baselines3", "sb3_contrib"),
    "rllib": ("ray",),
    "torchrl": ("torchrl",),
    "cleanrl": (),
}
_AGENT_FILE = re.compile(r".+\.py:\w+")


@dataclass(frozen=True)
class SavedPolicy:
    """A policy in files. Spaces are needed by CleanRL, and by Stable-Baselines3 without ``trust_pickle``."""

    source: str
    spaces: Spaces | None = None
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of a CleanRL agent."""
    trust_pickle: bool = False
    algorithm: str | None = None
    policy: str = "MlpPolicy"
    """With ``algorithm``: the classes of a model of Stable-Baselines3 that is rebuilt."""
    vec_normalize: Path | None = None


def library_of(source: str) -> Library:
    """Return the library whose files look like ``source``."""
    if _AGENT_FILE.fullmatch(source):
        return "cleanrl"
    return "rllib" if Path(source).is_dir() else "sb3"


def read_policy(saved: SavedPolicy) -> Any:
    """Return the policy as a module under the policy contract, with its ``signature``.

    Raises:
        NotTrusted: The file holds pickles, and ``trust_pickle`` is False.
        ConfigurationError: The library is not installed, or the file is none of it.
        WeightsError: The weights do not fit.
        ExportError: The policy's actions differ from the library's own.
    """
    library = library_of(saved.source)
    _require(library)
    if saved.weights is not None and library != "cleanrl":
        raise ConfigurationError(f"leave out --weights: {saved.source} has its own; agents of CleanRL need a file")
    if library == "sb3":
        return _read_sb3(saved)
    if library == "rllib":
        from learner.importers.rllib import from_rllib

        return from_rllib(saved.source, trust_pickle=saved.trust_pickle)
    from learner.importers.cleanrl import from_cleanrl, load_agent

    own_spaces = _required_spaces(saved, "--env ID, which defines the spaces that the agent is constructed for")
    return from_cleanrl(load_agent(saved.source, saved.weights, own_spaces, saved.arguments), *own_spaces)


def as_policy(module: nn.Module, own_spaces: Spaces) -> nn.Module:
    """Return a module of TorchRL under the policy contract, and any other as it is."""
    tensordict = sys.modules.get("tensordict.nn")  # imported by every module of TorchRL
    if tensordict is None or not isinstance(module, tensordict.TensorDictModuleBase):
        return module
    _require("torchrl")
    from learner.importers.torchrl import from_torchrl

    return from_torchrl(module, *own_spaces)


def _read_sb3(saved: SavedPolicy) -> Any:
    from learner.sb3.adapter import from_sb3
    from learner.sb3.model_file import load_model, load_vec_normalize, load_weights

    path = Path(saved.source)
    normalization = None
    if saved.vec_normalize is not None:
        normalization = load_vec_normalize(saved.vec_normalize, trust_pickle=saved.trust_pickle)
    model: Any
    if saved.trust_pickle:
        model = load_model(path, trust_pickle=True, algorithm=saved.algorithm)
    else:
        observation, action = _required_spaces(
            saved, "--env ID to rebuild the policy, or --trust-pickle to read it whole"
        )
        model = load_weights(
            path, observation_space=observation, action_space=action, algorithm=saved.algorithm, policy=saved.policy
        )
    observation_space = None if saved.spaces is None else saved.spaces[0]
    return from_sb3(model, observation_space=observation_space, vec_normalize=normalization)


def _required_spaces(saved: SavedPolicy, expected: str) -> Spaces:
    if saved.spaces is None:
        raise ConfigurationError(f"expected {expected}")
    return saved.spaces


def _require(library: Library) -> None:
    """Raise ConfigurationError unless the packages of ``library`` are installed. They are not imported."""
    missing = [name for name in _PACKAGES[library] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f'{", ".join(missing)} is not installed: pip install "rl-hotswap[{library}]"')
