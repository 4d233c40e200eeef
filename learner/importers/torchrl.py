"""Policies of TorchRL: ``TensorDictModule``, ``ProbabilisticActor``, ``QValueActor`` and sequences of them.

The modules in front of the distribution run as they are, on a TensorDict of tensors. The project's own distribution,
with noise as an input, takes the place of the library's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    TensorDictModuleBase,
    TensorDictModuleWrapper,
    TensorDictSequential,
    set_interaction_type,
)
from torch import Tensor, nn
from torchrl.modules import (
    AdditiveGaussianModule,
    DistributionalQValueModule,
    EGreedyModule,
    IndependentNormal,
    LSTMModule,
    MaskedCategorical,
    OrnsteinUhlenbeckProcessModule,
    QValueModule,
    TanhDelta,
    TanhNormal,
)
from torchrl.modules.distributions import Delta

from learner.export.given_module import module_of
from learner.export.spaces_policy import SpacesPolicy
from learner.importers.agreement import check_actions
from learner.networks.action_scaling import Scaling
from learner.networks.distributions import mask_logits
from shared.errors import ConfigurationError, one_line

Key = str | tuple[str, ...]

ACTION, VALUE, IS_INIT = "action", "state_value", "is_init"
_EXPLORATION = (EGreedyModule, AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule)
_CATEGORICAL = (torch.distributions.Categorical, torch.distributions.OneHotCategorical)
_NORMAL = (torch.distributions.Normal, IndependentNormal)


def from_torchrl(
    module: TensorDictModuleBase, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> SpacesPolicy:
    """Return a policy of TorchRL under the policy contract, with its ``signature``.

    The layers are shared with ``module``. The action is read from the key ``action``, and a value from ``state_value``
    if there is one. Modules for exploration (``EGreedyModule`` and others) are left out. Transforms of the TorchRL
    environment are not part of the policy.

    Args:
        module: The actor. A Dict observation space has the names of its input keys.
        observation_space: The space of one environment, as the module reads it.
        action_space: The action space of one environment, of Gymnasium: one-hot actions become numbers.

    Raises:
        ConfigurationError: The module, its distribution or the spaces are not supported.
        ExportError: The module's own deterministic actions differ.
    """
    given = module_of(module)
    if not isinstance(given, TensorDictModuleBase):
        raise ConfigurationError(f"pass a TensorDictModule, such as a ProbabilisticActor; found {type(given).__name__}")
    actor = _ActorCall(given, observation_space, action_space)
    policy = SpacesPolicy(
        actor,
        observation_space,
        action_space,
        state=actor.example_state(),
        masked=actor.mask_key is not None,
        scaling=actor.scaling(),
    )
    check_actions(policy, partial(_own_actions, actor, policy), "TorchRL")
    return policy


def is_torchrl(module: object) -> bool:
    """Return True for a module that ``from_torchrl`` reads."""
    return isinstance(module, TensorDictModuleBase)


@dataclass(frozen=True)
class _Apart:
    """A module that is no part of the policy: torch.jit reads every attribute of its parts, and some raise."""

    module: TensorDictModuleBase


@dataclass(frozen=True)
class _Head:
    """The module that chooses the action, and the way to read its inputs."""

    module: Any
    read: Callable[[Any, TensorDict], dict[str, Tensor]]
    """Function of ``module``, which a copy of the policy has its own of, and the data in front of it."""
    mask_key: Key | None = None
    scaling: Scaling | None = None


class _ActorCall(nn.Module):
    """Calls the modules before the action, and returns their results by the names of ``SpacesPolicy``."""

    def __init__(
        self,
        module: TensorDictModuleBase,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        super().__init__()
        self.given = _Apart(module)
        pieces = [piece for piece in _pieces(module) if not isinstance(piece, _EXPLORATION)]
        self._head = _head(pieces, action_space)
        self.mask_key = self._head.mask_key
        self._pieces = _without_followers(pieces, self._head.module)
        is_greedy = isinstance(self._head.module, QValueModule)
        self.pieces = nn.ModuleList([*self._pieces, self._head.module] if is_greedy else self._pieces)
        _make_buffers(self.pieces)
        self._has_value = any(VALUE in piece.out_keys for piece in self._pieces)
        self._lstms = [piece for piece in self._pieces if isinstance(piece, LSTMModule)]
        self.keys = self._observation_keys(observation_space)

    def scaling(self) -> Scaling | None:
        return self._head.scaling

    def example_state(self) -> dict[str, Tensor] | None:
        """Return a state ``[1, layers, hidden]`` of each LSTM, or None without any."""
        return {
            _name(key): torch.zeros(1, piece.lstm.num_layers, piece.lstm.hidden_size)
            for piece in self._lstms
            for key in piece.in_keys[1:3]
        } or None

    def forward(self, observation: Any, *rest: Any) -> dict[str, Any]:
        arguments = list(rest)
        state = arguments.pop(0) if self._lstms else {}
        data = self.data(observation, {}, arguments[0] if arguments else None)
        next_state: dict[str, Tensor] = {}
        for piece in self._pieces:
            if isinstance(piece, LSTMModule):
                next_state |= _lstm_step(piece, data, state)
            else:
                piece(data)
        found: dict[str, Any] = self._head.read(self._head.module, data)
        if self._has_value:
            found["value"] = data[VALUE]
        if self._lstms:
            found["state"] = next_state
        return found

    def data(self, observation: Any, state: Mapping[str, Tensor], mask: Tensor | None) -> TensorDict:
        """Return the inputs by key. Without a batch size, so that a program has none either."""
        data = TensorDict({}, batch_size=[])
        for key, tensor in self.keys.items():
            data[tensor] = observation if key is None else observation[key]
        for piece in self._lstms if state else ():
            for key in piece.in_keys[1:3]:
                data[key] = state[_name(key)]
        if self.mask_key is not None and mask is not None:
            data[self.mask_key] = mask
        return data

    def _observation_keys(self, space: spaces.Space[Any]) -> dict[str | None, Key]:
        """Return the input key of each entry of a Dict space, or of the observation (None)."""
        produced: set[Key] = {IS_INIT} if self.mask_key is None else {IS_INIT, self.mask_key}
        read: list[Key] = []
        for piece in self._pieces:
            own = piece.in_keys[:1] if isinstance(piece, LSTMModule) else piece.in_keys
            read += [key for key in own if key not in produced and key not in read]
            produced |= set(piece.out_keys)
        if not isinstance(space, spaces.Dict) and len(read) == 1:
            return {None: read[0]}
        by_name: dict[str | None, Key] = {_name(key): key for key in read}
        if isinstance(space, spaces.Dict) and by_name.keys() <= space.spaces.keys():
            return by_name
        raise ConfigurationError(
            "give the observation space the keys that the module reads: "
            f"expected {one_line(sorted(_name(key) for key in read), 80)}, found {one_line(space, 80)}"
        )


def _pieces(module: TensorDictModuleBase) -> Iterator[TensorDictModuleBase]:
    """Yield the modules of nested sequences and wrappers in the order of their calls."""
    if isinstance(module, TensorDictSequential):
        for child in module.module:
            yield from _pieces(child)
    elif isinstance(module, TensorDictModuleWrapper):
        yield from _pieces(module.td_module)
    else:
        yield module


def _make_buffers(module: nn.Module) -> None:
    """Make buffers, which are not saved, of plain tensors such as those of ``biased_softplus``: ONNX needs names."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor):
                delattr(part, name)
                part.register_buffer(name, value, persistent=False)


def _without_followers(pieces: list[TensorDictModuleBase], head: Any) -> list[TensorDictModuleBase]:
    """Return the pieces but the head and those that read its results, such as a critic of the action."""
    chosen: set[Key] = set() if head is None else set(head.out_keys)
    kept = []
    for piece in pieces:
        if piece is head:
            continue
        if chosen.intersection(piece.in_keys):
            chosen |= set(piece.out_keys)
        else:
            kept.append(piece)
    return kept


def _head(pieces: list[TensorDictModuleBase], action_space: spaces.Space[Any]) -> _Head:
    for piece in pieces:
        if isinstance(piece, QValueModule):
            return _Head(piece, _q_values, piece.action_mask_key)
        if isinstance(piece, ProbabilisticTensorDictModule):
            if ACTION not in piece.out_keys:
                raise ConfigurationError(f"give the action the key {ACTION!r}: found {piece.out_keys}")
            return _distribution_head(piece, action_space)
    if not any(ACTION in piece.out_keys for piece in pieces):
        raise ConfigurationError(f"give one module the output key {ACTION!r}: none has it")
    is_discrete = isinstance(action_space, spaces.Discrete)

    def read(_: object, data: TensorDict) -> dict[str, Tensor]:
        action: Tensor = data[ACTION]
        # A one-hot action is the highest of its row.
        return {"q_values": action.to(torch.float32)} if is_discrete and action.ndim > 1 else {"action": action}

    return _Head(None, read)


def _q_values(piece: QValueModule, data: TensorDict) -> dict[str, Tensor]:
    values = data[piece.action_value_key]
    if isinstance(piece, DistributionalQValueModule):
        values = (values.exp() * piece.support.unsqueeze(-1)).sum(-2)
    if piece.action_mask_key is not None:
        values = mask_logits(values, data[piece.action_mask_key])
    return {"q_values": values}


def _distribution_head(piece: ProbabilisticTensorDictModule, action_space: spaces.Space[Any]) -> _Head:
    cls, options = piece.distribution_class, dict(piece.distribution_kwargs)
    low, high = (
        np.broadcast_to(np.asarray(options.get(name, default)), action_space.shape or ()).ravel().tolist()
        for name, default in (("low", -1.0), ("high", 1.0))
    )
    scaling = Scaling(squashes=True, low=low, high=high)
    # TorchRL moves these means by the middle of the bounds, before tanh.
    is_moved = issubclass(cls, TanhDelta) or (issubclass(cls, TanhNormal) and options.get("tanh_loc", False))
    middle = torch.tensor([(a + b) / 2 for a, b in zip(low, high, strict=True)]) if is_moved else torch.zeros(())
    keys: dict[str, Key] = {_last(name): key for name, key in zip(piece.dist_keys, piece.in_keys, strict=True)}

    def mean(data: TensorDict) -> Tensor:
        found: Tensor = data[keys["loc" if "loc" in keys else "param"]]
        if options.get("tanh_loc"):
            upscale = options.get("upscale", 5.0)
            found = upscale * torch.tanh(found / upscale)
        return found + middle.reshape(action_space.shape or ()) if is_moved else found

    def gaussian(_: object, data: TensorDict) -> dict[str, Tensor]:
        found = mean(data)
        scale = data[keys["scale"]] if "scale" in keys else options["scale"]
        scale = scale(found) if callable(scale) else torch.as_tensor(scale, dtype=found.dtype)
        return {"mean": found, "log_std": scale.log()}

    def logits(_: object, data: TensorDict) -> dict[str, Tensor]:
        return {"logits": data[keys["logits"]] if "logits" in keys else data[keys["probs"]].log()}

    if issubclass(cls, _CATEGORICAL):
        return _Head(piece, logits, keys.get("mask") if issubclass(cls, MaskedCategorical) else None)
    if issubclass(cls, TanhNormal):
        return _Head(piece, gaussian, scaling=scaling)
    if issubclass(cls, _NORMAL):
        return _Head(piece, gaussian)
    if issubclass(cls, TanhDelta):
        return _Head(piece, lambda _, data: {"mean": mean(data)}, scaling=scaling)
    if issubclass(cls, Delta):
        return _Head(piece, lambda _, data: {"mean": mean(data)})
    raise ConfigurationError(
        "return the parameters from an nn.Module of your own and publish that with publish_policy: distributions are "
        f"Categorical, OneHotCategorical, Normal, TanhNormal, Delta and TanhDelta, found {cls.__name__}"
    )


def _lstm_step(piece: LSTMModule, data: TensorDict, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write the output of one step, and return the next state."""
    value, *states = piece.in_keys[:3]
    h, c = (state[_name(key)].transpose(0, 1).contiguous() for key in states)
    output, after = piece.lstm(data[value].unsqueeze(1), (h, c))
    data[piece.out_keys[0]] = output[:, 0]
    return {_name(key): tensor.transpose(0, 1) for key, tensor in zip(states, after, strict=True)}


def _own_actions(actor: _ActorCall, policy: SpacesPolicy, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return TorchRL's deterministic actions for inputs of the policy."""
    observation, state, mask = policy.arguments([torch.from_numpy(array) for array in inputs])
    data = actor.data(observation, state or {}, mask)
    data.batch_size = [len(inputs[0])]
    data[IS_INIT] = torch.zeros(len(inputs[0]), 1, dtype=torch.bool)
    module = actor.given.module
    was_training = module.training
    module.eval()
    with torch.no_grad(), set_interaction_type(InteractionType.DETERMINISTIC):
        action = module(data)[ACTION]
    module.train(was_training)
    is_one_hot = policy.signature.action.kind == "discrete" and action.ndim > 1
    return np.asarray((action.argmax(-1) if is_one_hot else action).numpy())


def _name(key: Key) -> str:
    return key if isinstance(key, str) else ".".join(key)


def _last(key: Key) -> str:
    return key if isinstance(key, str) else key[-1]
