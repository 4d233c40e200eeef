"""What runs a program inside an actor: one small interface, one file for each engine beside this one."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

EngineKind = Literal["llvm", "onnx", "torchscript", "aot", "compile", "eager"]
EngineChoice = Literal["auto", "llvm", "onnx", "torchscript", "aot", "compile", "eager"]


class Engine(Protocol):
    """A loaded program with its weights.

    It was made for all outputs of the signature, or for those at some positions, which are then all that there are.
    ``run`` is called by one thread at a time, and never while ``load_weights`` runs: what acts is never written to.
    """

    kind: EngineKind
    program_digest: str

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs, in their order, each batch first. ``inputs`` were checked by the caller.

        Inputs are C-contiguous. The outputs are fresh arrays that later calls do not touch. An engine whose program
        checks them itself gives them as ``shared.policy.output_bounds.InBounds`` where nothing is wrong with them.
        """
        ...

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace all parameters and buffers of this engine, which does not act now.

        Raises WeightsError unless names, shapes and dtypes fit.
        """
        ...

    def twin(self) -> "Engine | None":
        """Another engine of the same program, to be given weights before it runs; None where none is to be had so.

        This one may be running meanwhile, and does not change.
        """
        ...
