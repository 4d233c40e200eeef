"""The policy contract: the flat, named tensors that a program takes and returns, and their order.

A policy is a pure function. Randomness is the input ``noise`` (Gumbel for Discrete and MultiDiscrete, standard normal
for Box, logistic for MultiBinary; all zeros gives the deterministic policy), and recurrent state is an input and an
output. A program takes one list of tensors and returns one list, both batch first and in this order:

- inputs: every ``observation`` leaf, every ``state`` leaf, ``action_mask`` if the environment has one, ``noise``;
- outputs: ``action`` (the raw sample, recorded and learned from), ``env_action`` (passed to the environment; absent if
  equal to ``action``), ``log_prob`` (of ``action``), ``value``, every ``state`` leaf.

``noise``, ``log_prob`` and ``value`` are optional: a policy trained elsewhere may lack them.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from shared.errors import ConfigurationError, SignatureMismatch
from shared.policy.nested_values import Structure
from shared.policy.spaces import ActionSpec, ObservationLeaf, Path
from shared.policy.tensor_limits import MAX_TENSORS, NamedSize, size_of, size_terms
from shared.policy.weights import dtype_named

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
    """One tensor. ``shape`` has a number for a fixed size, and a name or a sum such as ``t+1`` for a named one.

    A None is the batch size in an input, and in an output a size that depends on it.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter of ``forward``. ``default`` has constants only: a tensor is no part of a signature."""

    name: str
    kind: Literal["positional_only", "any", "keyword_only", "args", "kwargs"] = "any"
    default: Structure | UnsetType = UNSET


class ModuleSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Tensors of a module. ``arguments`` is the structure of ``(args, kwargs)``, ``result`` that of the result.

    ``sizes`` are the named sizes of the inputs. ``parameters`` are those of ``forward``, if they are known.
    """

    inputs: Annotated[tuple[ArgumentSpec, ...], _MOST]
    outputs: Annotated[tuple[ArgumentSpec, ...], _MOST]
    arguments: Structure
    result: Structure
    sizes: tuple[NamedSize, ...] | UnsetType = UNSET
    parameters: tuple[Parameter, ...] | UnsetType = UNSET

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def named_sizes(self) -> tuple[NamedSize, ...]:
        """The sizes that vary from call to call, besides the batch size."""
        return self.sizes if isinstance(self.sizes, tuple) else ()

    def check_inputs(self, arrays: Sequence[np.ndarray]) -> dict[str, int]:
        """Return the named sizes of ``arrays``. Raises SignatureMismatch unless they fit and are within the ranges."""
        sizes = _check_arguments(self.inputs, arrays, "input", {})
        for named in self.named_sizes:
            if not named.smallest <= (found := sizes.get(named.name, named.smallest)) <= named.largest:
                raise SignatureMismatch(
                    f"call it with {named.name} from {named.smallest} to {named.largest}, or export again with "
                    f"another range in dynamic: found {named.name} = {found}"
                )
        return sizes

    def check_outputs(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]) -> None:
        """Raise SignatureMismatch unless number, dtypes and known dimensions fit, for inputs of the named ``sizes``."""
        _check_arguments(self.outputs, arrays, "output", sizes)


def _check_arguments(
    specs: Sequence[ArgumentSpec], arrays: Sequence[np.ndarray], what: str, known: Mapping[str, int]
) -> dict[str, int]:
    _check_number(specs, arrays, what)
    sizes = {**_named_sizes(specs, arrays), **known}
    batch_size: int | None = None
    for spec, array in zip(specs, arrays, strict=True):
        fits = array.dtype == dtype_named(spec.dtype) and array.ndim == len(spec.shape)
        for size, found in zip(spec.shape, array.shape, strict=False):
            if isinstance(size, str):
                fits = fits and size_of(size, sizes) == found
            elif size is not None:
                fits = fits and size == found
            elif what == "input":
                batch_size = batch_size or found or None  # no rows are no batch
                fits = fits and batch_size == found
        if not fits:
            expected = _shape_text(spec, sizes, batch_size)
            raise SignatureMismatch(
                f"{what} {spec.name}: expected {spec.dtype} {expected}, found {array.dtype} {array.shape}"
            )
    return sizes


def _named_sizes(specs: Sequence[ArgumentSpec], arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """Return the sizes of the dimensions with a plain name. The first with a name decides for all others."""
    sizes: dict[str, int] = {}
    for spec, array in zip(specs, arrays, strict=True):
        for size, found in zip(spec.shape, array.shape, strict=False):
            if isinstance(size, str) and size_terms(size) == ((size,), 0):
                sizes.setdefault(size, found)
    return sizes


def _shape_text(spec: ArgumentSpec, sizes: Mapping[str, int], batch_size: int | None) -> str:
    rows = "batch" if batch_size is None else batch_size
    shape: list[int | str] = []
    for size in spec.shape:
        value = size_of(size, sizes) if isinstance(size, str) else size
        shape.append(rows if size is None else size if value is None else value)
    return str(tuple(shape))
