"""Signature of an exported module that is not a policy: flat tensors and the nested structures around them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from shared.errors import SignatureMismatch
from shared.policy.signature import PolicySignature
from shared.policy.spaces import ActionSpec
from shared.policy.structure import Structure

NOT_A_POLICY = PolicySignature((), ActionSpec("none", "float32", ()), (), ())
"""Policy signature in the manifest of a module that is not a policy; an agent refuses it."""


class ArgumentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor. A None in ``shape`` is the batch size in an input, and in an output a size that depends on it."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class ModuleSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Tensors of a module. ``arguments`` is the structure of ``(args, kwargs)``, ``result`` that of the result."""

    inputs: tuple[ArgumentSpec, ...]
    outputs: tuple[ArgumentSpec, ...]
    arguments: Structure
    result: Structure

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def batch_dims(self) -> tuple[int | None, ...]:
        """Index of each input's batch dimension, or None."""
        return tuple(spec.shape.index(None) if None in spec.shape else None for spec in self.inputs)

    def check_inputs(self, arrays: Sequence[np.ndarray]) -> int | None:
        """Return the batch size, or None without a batch dimension. Raises SignatureMismatch unless ``arrays`` fit.

        A traced LSTM with a state of the wrong shape ends the process.
        """
        return _check(self.inputs, arrays, "input")

    def check_outputs(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise SignatureMismatch unless number, dtypes and known dimensions fit."""
        _check(self.outputs, arrays, "output")


def _check(specs: Sequence[ArgumentSpec], arrays: Sequence[np.ndarray], what: str) -> int | None:
    if len(arrays) != len(specs):
        raise SignatureMismatch(
            f"expected {len(specs)} {what}s ({', '.join(spec.name for spec in specs)}), found {len(arrays)}"
        )
    batch_size: int | None = None
    for spec, array in zip(specs, arrays, strict=True):
        fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
        for size, found in zip(spec.shape, array.shape, strict=False):
            if size is not None:
                fits = fits and size == found
            elif what == "input":
                batch_size = found if batch_size is None else batch_size
                fits = fits and batch_size == found and found > 0
        if not fits:
            shape: tuple[Any, ...] = tuple(
                ("batch" if batch_size is None else batch_size) if size is None else size for size in spec.shape
            )
            raise SignatureMismatch(
                f"{what} {spec.name}: expected {spec.dtype} {shape}, found {array.dtype} {array.shape}"
            )
    return batch_size
