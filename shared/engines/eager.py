"""Engines for torch modules: without compilation, the reference for all other engines, and with ``torch.compile``."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shared.engines.engine import EngineKind
from shared.errors import PolicyOutputError
from shared.policy.weights import check_weights


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, non-persistent buffers included; detached, not copied."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


class EagerEngine:
    """Runs an eager, scripted or traced module whose ``forward`` takes and returns one list of tensors.

    The engine owns the module. ``outputs`` are the positions of the outputs that ``run`` returns; all by default.
    """

    kind: EngineKind = "eager"

    def __init__(self, module: nn.Module, program_digest: str, outputs: Sequence[int] | None = None) -> None:
        self.program_digest = program_digest
        self._module = module.eval()
        self._outputs = outputs
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._call: Callable[[list[Tensor]], list[Tensor]] = module
        # Views of the module's memory: np.copyto accepts a read-only source and releases the GIL.
        self._weights = {name: tensor.numpy() for name, tensor in module_tensors(module).items()}

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when the module raises."""
        return self._run_tensors([to_tensor(array) for array in inputs])

    def _run_tensors(self, tensors: list[Tensor]) -> list[np.ndarray]:
        try:
            with torch.inference_mode():
                outputs = self._call(tensors)
                kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
                # Copied, because an output may be a view of an input, a weight or another output.
                return [output.numpy().copy() for output in kept]
        except Exception as error:  # a policy's own code may raise anything
            raise PolicyOutputError(f"the policy raised {type(error).__name__}: {error}") from error

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``."""
        check_weights(self._weights, weights)
        for name, array in self._weights.items():
            np.copyto(array, weights[name], casting="no")

    def twin(self) -> "EagerEngine | None":
        """Return None: a user's module may not support copying."""
        return None


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor on the memory of ``array``, or on a copy of a read-only array."""
    # torch warns about read-only memory, because a program could write to it.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


_MOST_COMPILATIONS = 64


class TorchCompileEngine(EagerEngine):
    """Runs a module compiled at its first call, which takes ten seconds or more.

    One compilation serves every batch size and all engines of one network; torch makes another for single rows.
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
