"""Engine for ExecuTorch programs, which an interpreter runs that believes them: loaded only with permission.

The interpreter reads weights from memory of this engine, or packs a copy of them when a program is loaded.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from shared.engines.eager import InputTensors
from shared.engines.engine import EngineKind
from shared.engines.executorch_program import ExecutorchProgram, data_map, decode_program, weight_views
from shared.engines.torch_arrays import array_of
from shared.errors import PolicyOutputError, ProgramError
from shared.policy.program_digest import program_digest
from shared.policy.weights import check_weights, have_equal_arrays

_METHOD = "forward"


def _runtime() -> Any:
    """Return the runtime, which needs the libraries of torch. Its public module would import the exporter, too."""
    from executorch.extension.pybindings import _C

    return _C


_RUNTIME = _runtime()


class ExecutorchEngine:
    """A loaded program with its weights. New weights load it again, in a fraction of a millisecond."""

    kind: EngineKind = "executorch"

    def __init__(
        self, program: bytes, weights: Mapping[str, np.ndarray], *, outputs: Sequence[int] | None = None
    ) -> None:
        """Load ``program``; ``run`` returns the outputs at ``outputs``, or all.

        The caller has verified its SHA-256 and has the permission for native code. Raises ProgramError and
        WeightsError.
        """
        _use_one_thread()
        self.program_digest = program_digest("executorch", program)
        self._program = decode_program(program)
        self._outputs = outputs
        self._expected = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        self.load_weights(weights)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``."""
        check_weights(self._expected, weights)
        layout = self._program.layout
        data = data_map(layout, weights)
        module = _load(self._program, data)
        # The runtime refers to the bytes without keeping them.
        self._data, self._module, self._inputs = data, module, InputTensors()
        views = weight_views(layout, data, weights)
        self._views = {place.weight: view for place, view in zip(layout.places, views, strict=True)}

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Compare the arrays that the program reads; see ``Engine``."""
        return have_equal_arrays(self._views, {name: weights[name] for name in self._views})

    def twin(self) -> "ExecutorchEngine":
        """Return a copy; ``load_weights`` replaces everything that depends on weights. See ``Engine``."""
        return copy.copy(self)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when the runtime reports an error."""
        layout = self._program.layout
        if layout.rows is not None and layout.splits and len(inputs[0]) > layout.rows:
            starts = range(0, len(inputs[0]), layout.rows)
            parts = [self._run([array[start : start + layout.rows] for array in inputs]) for start in starts]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return self._run(inputs)

    def _run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            outputs: list[Tensor] = self._module.forward(self._inputs.fill(inputs))
        except RuntimeError as error:
            most = self._program.layout.rows
            raise PolicyOutputError(
                f"call it with at most {most} rows, or on another engine: ExecuTorch: {error}"
                if most is not None and any(most < size for array in inputs for size in array.shape)
                else f"ExecuTorch: {error}"
            ) from error
        # The runtime returns copies; those of images may have another order of axes.
        kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
        return [array_of(output.contiguous()) for output in kept]


def _load(program: ExecutorchProgram, data: bytes) -> Any:
    try:
        module = _RUNTIME._load_for_executorch_from_buffer(program.pte, data or None)
        module.method_meta(_METHOD)
    except RuntimeError as error:
        raise ProgramError(f"ExecuTorch: {error}") from error
    return module


@functools.cache
def _use_one_thread() -> None:
    """Let the interpreter start no threads: an actor's process has one core."""
    if _RUNTIME._threadpool_get_thread_count() != 1:
        _RUNTIME._unsafe_reset_threadpool(1)
