"""Runs a torch module as it is: what everything else is compared with, and the last method of an importable policy."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shared.engines.engine import EngineKind
from shared.errors import PolicyOutputError
from shared.policy.weights import check_finite, check_layout


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and every buffer (those that ``state_dict`` leaves out as well) by name, detached, not copied."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


class EagerEngine:
    """Runs a module, eager, scripted or traced, whose ``forward`` takes and returns one list of tensors.

    The module belongs to the engine from then on. ``outputs`` are the positions of those that ``run`` returns.
    """

    kind: EngineKind = "eager"

    def __init__(self, module: nn.Module, program_digest: str, outputs: Sequence[int] | None = None) -> None:
        self.program_digest = program_digest
        self._module = module.eval()
        self._outputs = outputs
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._call: Callable[[list[Tensor]], list[Tensor]] = module
        # Views of the module's own memory: np.copyto needs no writable source, and lets other threads run.
        self._weights = {name: tensor.numpy() for name, tensor in module_tensors(module).items()}

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError where the module raises."""
        return self._run_tensors([to_tensor(array) for array in inputs])

    def _run_tensors(self, tensors: list[Tensor]) -> list[np.ndarray]:
        try:
            with torch.inference_mode():
                outputs = self._call(tensors)
                kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
                # Copied, since an output may be a view of an input, of a weight, or of another output.
                return [output.numpy().copy() for output in kept]
        except Exception as error:  # a policy's own code may raise anything
            raise PolicyOutputError(f"the policy raised {type(error).__name__}: {error}") from error

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See Engine."""
        check_layout(self._weights, weights)
        check_finite(weights)
        for name, array in self._weights.items():
            np.copyto(array, weights[name], casting="no")

    def twin(self) -> "EagerEngine | None":
        """See Engine. A module of somebody's own making may not bear being copied."""
        return None


def to_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the memory of ``array``, or on a copy of it where that is read-only."""
    # torch warns of read-only memory, and a program could write to it.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
