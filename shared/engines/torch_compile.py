"""Engine for torch modules through ``torch.compile``, compiled by a C++ compiler for all batch sizes at once."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from shared.engines.eager import EagerEngine, to_tensor
from shared.engines.engine import EngineKind

_MOST_COMPILATIONS = 64


class TorchCompileEngine(EagerEngine):
    """Runs a module compiled at its first call, which takes ten seconds or more.

    The batch dimension is dynamic, so one compilation serves every batch size; torch makes another for single rows.
    Engines of one network share both. New weights need no compilation.
    """

    kind: EngineKind = "compile"

    def __init__(self, module: nn.Module, program_digest: str, outputs: Sequence[int] | None = None) -> None:
        super().__init__(module, program_digest, outputs)
        # The limit (8 by default) counts all networks of a class; beyond it torch silently stops compiling.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILATIONS)
        self._call = torch.compile(module)
        self._compiled: set[bool] = set()  # false: compiled for one row, true: for several

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when compiling fails or the module raises."""
        has_rows = inputs[0].shape[0] > 1
        if has_rows in self._compiled:
            return super().run(inputs)
        tensors = [to_tensor(array) for array in inputs]
        if has_rows:  # torch treats a size of 1 as a constant
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, 0)
        with warnings.catch_warnings():  # torch's deprecations while it compiles
            warnings.simplefilter("ignore")
            outputs = self._run_tensors(tensors)
        self._compiled.add(has_rows)
        return outputs
