"""The policy contract: the flat, named tensors that a program takes and returns, and their order.

A policy is a pure function. Randomness is the input ``noise`` (Gumbel for Discrete and MultiDiscrete, standard normal
for Box, logistic for MultiBinary; all zeros gives the deterministic policy), and recurrent state is an input and an
output. A program takes one list of tensors and returns one list, both batch first and in this order:

- inputs: every ``observation`` leaf, every ``state`` leaf, ``action_mask`` if the environment has one, ``noise``;
- outputs: ``action`` (the raw sample, recorded and learned from), ``env_action`` (passed to the environment; absent if
  equal to ``action``), ``log_prob`` (of ``action``), ``value``, every ``state`` leaf.

``noise``, ``log_prob`` and ``value`` are optional: a policy trained elsewhere may lack them.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

import msgspec
import numpy as np

from shared.errors import ConfigurationError, SignatureMismatch
from shared.policy.nested_values import Structure
from shared.policy.spaces import ActionSpec, ObservationLeaf, Path
from shared.policy.tensor_limits import MAX_TENSORS

Role = Literal["observation", "state", "action_mask", "noise", "action", "env_action", "log_prob", "value"]
_MOST = msgspec.Meta(max_length=MAX_TENSORS)


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a program. ``shape`` excludes the batch dimension, which comes first."""

    role: Role
    dtype: str
    shape: tuple[int, ...]
    path: Path = ()

    @property
    def name(self) -> str:
        """Name such as ``observation.camera`` or ``noise``, unique among the inputs and among the outputs."""
        return ".".join((self.role, *map(str, self.path)))


class PolicySignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """All tensors of a policy's programs, and its observation and action spaces."""

    observation: Annotated[tuple[ObservationLeaf, ...], _MOST]
    action: ActionSpec
    inputs: Annotated[tuple[TensorSpec, ...], _MOST]
    outputs: Annotated[tuple[TensorSpec, ...], _MOST]

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def state(self) -> tuple[TensorSpec, ...]:
        """Tensors of the recurrent state, in their order among inputs and outputs."""
        return tuple(spec for spec in self.inputs if spec.role == "state")

    @cached_property
    def without_value(self) -> "PolicySignature":
        """The signature of programs without the value output, which acting does not need."""
        return msgspec.structs.replace(self, outputs=tuple(spec for spec in self.outputs if spec.role != "value"))

    def input_position(self, role: Role) -> int | None:
        """Return the index of the first input of ``role``, or None."""
        return next((i for i, spec in enumerate(self.inputs) if spec.role == role), None)

    def output_position(self, role: Role) -> int | None:
        """Return the index of the first output of ``role``, or None."""
        return next((i for i, spec in enumerate(self.outputs) if spec.role == role), None)

    def check_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Raise SignatureMismatch unless ``inputs`` fit. A traced LSTM with a wrong state ends the process."""
        _check(self.inputs, inputs, "input")

    def check_outputs(self, outputs: Sequence[np.ndarray], batch_size: int) -> None:
        """Raise SignatureMismatch unless ``outputs`` fit and have ``batch_size`` rows."""
        _check(self.outputs, outputs, "output", batch_size)


def _check(specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray], what: str, batch_size: int | None = None) -> None:
    _check_number(specs, arrays, what)
    for spec, array in zip(specs, arrays, strict=True):
        if batch_size is None and array.ndim:
            batch_size = array.shape[0]
        if array.shape != (batch_size, *spec.shape) or array.dtype != np.dtype(spec.dtype):
            raise SignatureMismatch(
                f"{what} {spec.name}: expected {spec.dtype} {(batch_size, *spec.shape)}, "
                f"found {array.dtype} {array.shape}"
            )


def _check_number(specs: "Sequence[TensorSpec | ArgumentSpec]", arrays: Sequence[np.ndarray], what: str) -> None:
    if len(arrays) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise SignatureMismatch(f"expected {len(specs)} {what}s ({names}), found {len(arrays)}")


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
    """Return the signature of an acting policy. Raises ConfigurationError when tensors have the same name.

    ``state`` has path and shape, without the batch dimension, of each float32 tensor of recurrent state. ``masked`` is
    true when the policy takes action masks; ``noise``, ``log_prob`` and ``value`` are false when it lacks them.
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
    names = [spec.name for spec in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"rename a key of the observation space: two leaves would be named {twice[0]} "
            "(a key with a dot reads like a nested one)"
        )
    return PolicySignature(observation, action, tuple(inputs), tuple(outputs))


NOT_A_POLICY = PolicySignature((), ActionSpec("none", "float32", ()), (), ())
"""Policy signature in the manifest of a module that is not a policy; an agent refuses it."""


class ArgumentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor. A None in ``shape`` is the batch size in an input, and in an output a size that depends on it."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class ModuleSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Tensors of a module. ``arguments`` is the structure of ``(args, kwargs)``, ``result`` that of the result."""

    inputs: Annotated[tuple[ArgumentSpec, ...], _MOST]
    outputs: Annotated[tuple[ArgumentSpec, ...], _MOST]
    arguments: Structure
    result: Structure

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def batch_dims(self) -> tuple[int | None, ...]:
        """Index of each input's batch dimension, or None."""
        return tuple(spec.shape.index(None) if None in spec.shape else None for spec in self.inputs)

    def check_inputs(self, arrays: Sequence[np.ndarray]) -> int | None:
        """Return the batch size, or None without a batch dimension. Raises SignatureMismatch unless ``arrays`` fit."""
        return _check_arguments(self.inputs, arrays, "input")

    def check_outputs(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise SignatureMismatch unless number, dtypes and known dimensions fit."""
        _check_arguments(self.outputs, arrays, "output")


def _check_arguments(specs: Sequence[ArgumentSpec], arrays: Sequence[np.ndarray], what: str) -> int | None:
    _check_number(specs, arrays, what)
    batch_size: int | None = None
    for spec, array in zip(specs, arrays, strict=True):
        fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
        for size, found in zip(spec.shape, array.shape, strict=False):
            if size is not None:
                fits = fits and size == found
            elif what == "input":
                batch_size = batch_size or found or None  # no rows are no batch
                fits = fits and batch_size == found
        if not fits:
            rows = "batch" if batch_size is None else batch_size
            shape = tuple(rows if size is None else size for size in spec.shape)
            raise SignatureMismatch(
                f"{what} {spec.name}: expected {spec.dtype} {shape}, found {array.dtype} {array.shape}"
            )
    return batch_size
