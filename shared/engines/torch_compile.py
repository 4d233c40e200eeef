"""Runs a torch module through ``torch.compile``: compiled here, by a C++ compiler, for every batch size at once."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from shared.engines.eager import EagerEngine, to_tensor
from shared.engines.engine import EngineKind

_MOST_COMPILATIONS = 64


class TorchCompileEngine(EagerEngine):
    """The first call takes ten seconds or more.

    The batch dimension is marked dynamic there, so that one compilation serves every batch size; torch makes one more
    for batches of a single row. Engines of one network share both. Weights are read where they lie: new ones need none.
    """

    kind: EngineKind = "compile"

    def __init__(self, module: nn.Module, program_digest: str, outputs: Sequence[int] | None = None) -> None:
        super().__init__(module, program_digest, outputs)
        # All networks of one class count together; beyond the limit, eight by default, torch stops compiling unsaid.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILATIONS)
        self._call = torch.compile(module)
        self._compiled: set[bool] = set()  # whether for one row, whether for several

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError where compiling fails, or the module raises."""
        has_rows = inputs[0].shape[0] > 1
        if has_rows in self._compiled:
            return super().run(inputs)
        tensors = [to_tensor(array) for array in inputs]
        if has_rows:  # a size of 1 is a constant to torch, whatever it is told
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, 0)
        with warnings.catch_warnings():  # of torch's own deprecations, while it compiles
            warnings.simplefilter("ignore")
            outputs = self._run_tensors(tensors)
        self._compiled.add(has_rows)
        return outputs
