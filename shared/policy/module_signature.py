"""What a module that was exported as it is takes and returns: flat tensors, and the nested structures around them.

A policy has a ``PolicySignature``, which knows of observations and actions; any other module has only this.
"""

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
"""The signature in the manifest of a module that is no policy: no agent can act with it."""


class ArgumentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor. ``shape`` has None where an input has the batch size, and where an output's size depends on it."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class ModuleSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """``arguments`` is the structure of ``(args, kwargs)``, ``result`` that of what the module returns."""

    inputs: tuple[ArgumentSpec, ...]
    outputs: tuple[ArgumentSpec, ...]
    arguments: Structure
    result: Structure

    @cached_property
    def batch_dims(self) -> tuple[int | None, ...]:
        """Which dimension of each input is the batch, or None."""
        return tuple(spec.shape.index(None) if None in spec.shape else None for spec in self.inputs)

    def check_inputs(self, arrays: Sequence[np.ndarray]) -> int | None:
        """The batch size, None where none varies. Raises SignatureMismatch unless ``arrays`` fit.

        A traced LSTM that is given a wrong state kills the process.
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
