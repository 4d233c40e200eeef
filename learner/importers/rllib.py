"""Modules of RLlib's new API stack (``RLModule``), as objects or from a checkpoint directory.

The module runs as in ``forward_inference``. Its action distribution is replaced by the project's own, with noise as an
input; the connector ``NormalizeAndClipActions`` becomes part of the policy.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.connectors.module_to_env import NormalizeAndClipActions
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDeterministic,
    TorchDiagGaussian,
    TorchMultiCategorical,
    TorchSquashedGaussian,
)
from ray.rllib.core.rl_module.apis import QNetAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor, nn

from learner.export.spaces_policy import SpacesPolicy
from learner.importers.agreement import check_actions
from learner.networks.action_scaling import Scaling
from shared.errors import ConfigurationError, NotTrusted, one_line

MODULE_ID = "default_policy"
_CLASS_FILE = "class_and_ctor_args.pkl"
_MODULES = "learner_group/learner/rl_module", "learner/rl_module", "env_runner/rl_module", "rl_module", ""
_TO_MODULE = "env_runner/env_to_module_connector"
_TO_ENV = "env_runner/module_to_env_connector"
# They collect and convert observations, and change no number.
_PASSING = (
    "AddObservationsFromEpisodesToBatch",
    "AddTimeDimToBatchAndZeroPad",
    "AddStatesFromEpisodesToBatch",
    "AgentToModuleMapping",
    "BatchIndividualItems",
    "NumpyToTensor",
)


@dataclass(frozen=True)
class RLlibModule:
    """A module with the treatment of its Box actions: scaled from [-1, 1] to the bounds, as RLlib does by default."""

    module: RLModule
    normalizes_actions: bool = True


def from_rllib(source: RLModule | RLlibModule | str | Path, *, trust_pickle: bool = False) -> SpacesPolicy:
    """Return a module of RLlib under the policy contract, with its ``signature``.

    Zero noise gives the action of RLlib without exploration. Epsilon-greedy exploration is not part of the policy.

    Args:
        source: An ``RLModule``, or the directory of a checkpoint of an Algorithm, a Learner or an ``RLModule``.
        trust_pickle: True to read the pickles of a checkpoint, which can run any code.

    Raises:
        NotTrusted: ``source`` is a checkpoint, and ``trust_pickle`` is False.
        ConfigurationError: The directory, the distribution, the connectors or the spaces are not supported.
        ExportError: The module's own actions differ.
    """
    if isinstance(source, str | Path):
        source = load_checkpoint(Path(source), trust_pickle=trust_pickle)
    given = source if isinstance(source, RLlibModule) else RLlibModule(source)
    if not isinstance(given.module, nn.Module):
        raise ConfigurationError(f"pass a TorchRLModule or a checkpoint directory; found {type(given.module).__name__}")
    module: Any = given.module
    call = _ModuleCall(module)
    policy = SpacesPolicy(
        call,
        module.observation_space,
        module.action_space,
        state=call.example_state(),
        scaling=_scaling(given, call.distribution),
    )
    check_actions(policy, lambda inputs: _own_actions(given, policy, inputs), "RLlib")
    return policy


def is_checkpoint(directory: Path) -> bool:
    """Return True for a directory that RLlib's new API stack saved."""
    return (directory / _CLASS_FILE).is_file()


def load_checkpoint(directory: Path, *, trust_pickle: bool) -> RLlibModule:
    """Read the module of a checkpoint. Raises NotTrusted unless ``trust_pickle``, ConfigurationError if it is none."""
    if not is_checkpoint(directory):
        raise ConfigurationError(
            "pass a directory of algorithm.save_to_path() or of RLModule.save_to_path() of the new API stack: "
            f"{directory} holds no {_CLASS_FILE}"
        )
    if not trust_pickle:
        raise NotTrusted(
            "allow it with --trust-pickle (trust_pickle=True) if you trust the author of the checkpoint. "
            f"{directory}: RLlib saves pickles, which run as code when they are read"
        )
    try:
        _check_connectors(directory)
        module = RLModule.from_checkpoint(_module_directory(directory).absolute())
        normalizes = all(
            options["normalize_actions"]
            for connector, options in _connectors(directory / _TO_ENV)
            if connector is NormalizeAndClipActions
        )
    except ConfigurationError:
        raise
    except Exception as error:  # unpickling runs any code
        raise ConfigurationError(f"{directory} cannot be loaded: {type(error).__name__}: {error}") from error
    return RLlibModule(module, normalizes)


def _connectors(pipeline: Path) -> list[tuple[type[Any], dict[str, Any]]]:
    """Return class and keyword arguments of each connector of a saved pipeline, in order; none without a pipeline."""
    file = pipeline / _CLASS_FILE
    if not file.is_file():
        return []
    saved = pickle.loads(file.read_bytes())
    return [(connector, options) for connector, _, options in saved["ctor_args_and_kwargs"][1]["connectors"]]


def _module_directory(directory: Path) -> Path:
    for place in _MODULES:
        parent = directory / place
        if (parent / MODULE_ID / _CLASS_FILE).is_file():
            return parent / MODULE_ID
        others = [path.parent.name for path in parent.glob(f"*/{_CLASS_FILE}")] if place else []
        if others:
            raise ConfigurationError(
                f"pass the directory of one module, such as {parent / sorted(others)[0]}: "
                f"the checkpoint has no module {MODULE_ID}"
            )
    return directory


def _check_connectors(directory: Path) -> None:
    """Raise ConfigurationError for a connector that changes observations: it is no part of the module."""
    names = [connector.__name__ for connector, _ in _connectors(directory / _TO_MODULE)]
    others = [name for name in names if name not in _PASSING]
    if others:
        raise ConfigurationError(
            f"do in a wrapper of the environment what {one_line(', '.join(others), 60)} does, and pass the directory "
            f"of the module itself, {_module_directory(directory)}: connectors are no part of a policy"
        )


class _ModuleCall(nn.Module):
    """Calls an ``RLModule`` and returns its results by the names of ``SpacesPolicy``."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.distribution: type[Any] | None = module.get_inference_action_dist_cls()
        self._is_recurrent = bool(module.is_stateful())
        is_discrete = isinstance(module.action_space, spaces.Discrete)
        self._has_q_values = isinstance(module, QNetAPI) and is_discrete and not self._is_recurrent
        self._has_value = isinstance(module, ValueFunctionAPI) and hasattr(module, "vf") and not self._is_recurrent

    def example_state(self) -> Any:
        """Return a state ``[1, ...]``, or None for a module without memory."""
        if not self._is_recurrent:
            return None
        return _map(self.module.get_initial_state(), lambda part: torch.as_tensor(part).to(torch.float32)[None])

    def forward(self, observation: Any, state: Any = None) -> dict[str, Any]:
        batch = self.batch(observation, state)
        outputs = self.module.forward_inference(batch)
        if self._has_q_values and Columns.ACTIONS in outputs:  # DQN; SAC has Q-values, too, and acts by its policy
            return {"q_values": self.module.compute_q_values(batch)["qf_preds"]}
        found = self._head(outputs)
        if self._is_recurrent:
            found = {name: tensor[:, 0] for name, tensor in found.items()}
            found["state"] = outputs[Columns.STATE_OUT]
        if self._has_value:
            found["value"] = self.module.compute_values(batch)
        return found

    def batch(self, observation: Any, state: Any) -> dict[str, Any]:
        """Return the input of the module, with one step of time if it has a state."""
        if not self._is_recurrent:
            return {Columns.OBS: observation}
        return {Columns.OBS: _map(observation, lambda part: part[:, None]), Columns.STATE_IN: state}

    def _head(self, outputs: dict[str, Any]) -> dict[str, Any]:
        if Columns.ACTIONS in outputs:
            return {"action": outputs[Columns.ACTIONS]}
        inputs: Tensor = outputs[Columns.ACTION_DIST_INPUTS]
        cls = self.distribution
        if cls is None or issubclass(cls, TorchCategorical | TorchMultiCategorical):
            return {"logits": inputs}
        if issubclass(cls, TorchDeterministic):
            return {"mean": inputs}
        if issubclass(cls, TorchDiagGaussian | TorchSquashedGaussian):
            drawn = cls.from_logits(inputs)
            return {"mean": drawn.loc, "log_std": drawn._dist.scale.log()}
        raise ConfigurationError(
            "return logits, or mean and log_std, from an nn.Module around the RLModule and publish that with "
            f"publish_policy: {cls.__name__} is not supported"
        )


def _scaling(given: RLlibModule, distribution: type[Any] | None) -> Scaling | None:
    space = given.module.action_space
    squashes = distribution is not None and issubclass(distribution, TorchSquashedGaussian)
    if not isinstance(space, spaces.Box) or not (given.normalizes_actions and space.is_bounded()):
        if squashes:
            low = [-1.0] * int(np.prod(space.shape))
            return Scaling(squashes=True, squashes_mean=False, low=low, high=[-bound for bound in low])
        return None
    # RLlib's deterministic action is the mean itself, which is clipped and not squashed.
    return Scaling(squashes=squashes, squashes_mean=False)


def _own_actions(given: RLlibModule, policy: SpacesPolicy, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return RLlib's actions without exploration, as its connectors ``GetActions`` and ``NormalizeAndClip`` do."""
    module: Any = given.module
    call: Any = policy.module
    observation, state, _ = policy.arguments([torch.from_numpy(array) for array in inputs])
    with torch.no_grad():
        outputs = module.forward_inference(call.batch(observation, state))
    if Columns.ACTIONS in outputs:
        action = outputs[Columns.ACTIONS]
    else:
        drawn = module.get_inference_action_dist_cls().from_logits(outputs[Columns.ACTION_DIST_INPUTS])
        action = drawn.to_deterministic().sample()
    found = np.asarray(action.numpy())
    space = module.action_space
    if given.normalizes_actions and isinstance(space, spaces.Box) and space.is_bounded():
        found = space.low + (found.reshape(-1, *space.shape) + 1.0) * (space.high - space.low) / 2.0
    return found


def _map(value: Any, function: Any) -> Any:
    return {key: _map(part, function) for key, part in value.items()} if isinstance(value, dict) else function(value)
