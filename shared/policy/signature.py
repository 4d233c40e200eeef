"""The policy contract: which flat, named tensors a program takes and returns, in which order.

A policy is a pure function. Randomness comes in as ``noise`` (Gumbel for Discrete and MultiDiscrete, standard normal
for Box, logistic for MultiBinary; all zeros is the deterministic policy), recurrent state goes in and comes out. A
program is called with one list of tensors, ``inputs``, and returns one list, ``outputs``, both batch first and in the
order given here.

Inputs, in order: every ``observation`` leaf, every ``state`` leaf, ``action_mask`` where the environment has one,
``noise``. Outputs, in order: ``action`` (the raw sample, which is recorded and learned from), ``env_action`` (what the
environment is given; left out where the two are the same), ``log_prob`` (of ``action``), ``value``, every ``state``
leaf. ``noise``, ``log_prob`` and ``value`` are optional: a policy brought from elsewhere may have none.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np

from shared.errors import ConfigurationError, SignatureMismatch
from shared.policy.spaces import ActionSpec, ObservationLeaf, Path

Role = Literal["observation", "state", "action_mask", "noise", "action", "env_action", "log_prob", "value"]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a program. ``shape`` is without the batch dimension, which always comes first."""

    role: Role
    dtype: str
    shape: tuple[int, ...]
    path: Path = ()

    @property
    def name(self) -> str:
        """``observation.camera``, ``state.lstm.h``, ``noise``: unique among the inputs, and among the outputs."""
        return ".".join((self.role, *map(str, self.path)))


class PolicySignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """All tensors of a policy's programs, and the spaces that they stand for."""

    observation: tuple[ObservationLeaf, ...]
    action: ActionSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def state(self) -> tuple[TensorSpec, ...]:
        """The recurrent state's tensors, in the order in which they stand among inputs and outputs."""
        return tuple(spec for spec in self.inputs if spec.role == "state")

    @cached_property
    def without_value(self) -> "PolicySignature":
        """That of programs which leave the value out: who only acts has no use for it."""
        return msgspec.structs.replace(self, outputs=tuple(spec for spec in self.outputs if spec.role != "value"))

    def input_position(self, role: Role) -> int | None:
        """Where the first input of ``role`` stands, or None."""
        return next((i for i, spec in enumerate(self.inputs) if spec.role == role), None)

    def output_position(self, role: Role) -> int | None:
        """Where the first output of ``role`` stands, or None."""
        return next((i for i, spec in enumerate(self.outputs) if spec.role == role), None)

    def check_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Raise SignatureMismatch unless ``inputs`` fit: a traced LSTM given a wrong state kills the process."""
        _check(self.inputs, inputs, "input")

    def check_outputs(self, outputs: Sequence[np.ndarray], batch_size: int) -> None:
        """Raise SignatureMismatch unless ``outputs`` fit and have ``batch_size`` rows."""
        _check(self.outputs, outputs, "output", batch_size)


def _check(specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray], what: str, batch_size: int | None = None) -> None:
    if len(arrays) != len(specs):
        raise SignatureMismatch(
            f"expected {len(specs)} {what}s ({', '.join(spec.name for spec in specs)}), found {len(arrays)}"
        )
    for spec, array in zip(specs, arrays, strict=True):
        if batch_size is None and array.ndim:
            batch_size = array.shape[0]
        if array.shape != (batch_size, *spec.shape) or array.dtype != np.dtype(spec.dtype):
            raise SignatureMismatch(
                f"{what} {spec.name}: expected {spec.dtype} {(batch_size, *spec.shape)}, "
                f"found {array.dtype} {array.shape}"
            )


def acting_signature(
    observation: tuple[ObservationLeaf, ...],
    action: ActionSpec,
    *,
    state: Sequence[tuple[Path, tuple[int, ...]]] = (),
    masked: bool = False,
    noise: bool = True,
    log_prob: bool = True,
    value: bool = True,
) -> PolicySignature:
    """The signature of an acting policy, ``state`` given as (path, shape) of float32.

    A policy brought from elsewhere may have no use for ``noise`` (a deterministic one), and no ``log_prob`` or
    ``value`` to give. Raises ConfigurationError where two tensors would have one name.
    """
    state_specs = tuple(TensorSpec("state", "float32", shape, path) for path, shape in state)
    inputs = [TensorSpec("observation", leaf.dtype, leaf.shape, leaf.path) for leaf in observation]
    inputs += state_specs
    if masked and action.mask_shape is not None:
        inputs.append(TensorSpec("action_mask", "bool", action.mask_shape))
    if noise:
        inputs.append(TensorSpec("noise", "float32", action.noise_shape))
    outputs = [TensorSpec("action", action.sample_dtype, action.shape)]
    if action.has_env_action:
        outputs.append(TensorSpec("env_action", action.dtype, action.shape))
    if log_prob:
        outputs.append(TensorSpec("log_prob", "float32", ()))
    if value:
        outputs.append(TensorSpec("value", "float32", ()))
    outputs += state_specs
    _check_names(inputs)
    return PolicySignature(observation, action, tuple(inputs), tuple(outputs))


def _check_names(specs: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"two observation leaves would both be named {twice[0]}; rename a key of the observation space "
            "(a key with a dot in it reads like a nested one)"
        )
