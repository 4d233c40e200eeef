"""Interface of the engines."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

EngineKind = Literal["llvm", "onnx", "torchscript", "executorch", "aot", "compile", "eager"]
EngineChoice = Literal["auto", "llvm", "onnx", "torchscript", "executorch", "aot", "compile", "eager"]

NATIVE_ENGINES: frozenset[EngineKind] = frozenset(("executorch", "aot"))
"""Engines whose programs can do what native code can. They need the permission for it."""


class Engine(Protocol):
    """Loaded program with its weights, for all outputs of the signature or for those at some positions.

    ``run`` is called by one thread at a time, and never while ``load_weights`` runs.
    """

    kind: EngineKind
    program_digest: str

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs ``[B, *shape]``, in order, as new arrays.

        ``inputs`` are C-contiguous, and the caller has checked them against the signature. An engine whose program
        checks its outputs returns them as ``shared.policy.output_bounds.InBounds`` when all are within bounds.
        """

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace all parameters and buffers. Raises WeightsError unless names, shapes and dtypes fit."""

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Return True when the engine has exactly these weights: since ``load_weights`` no call has changed them."""

    def twin(self) -> "Engine | None":
        """Return another engine of the program, without weights, that may run beside this one; None if unsupported."""
