"""Engines for torch modules: without compilation, the reference for all other engines, and with ``torch.compile``."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.engines.engine import EngineKind
from shared.engines.torch_arrays import array_of, copies_of, tensor_of, weight_array
from shared.errors import PolicyOutputError
from shared.policy.weights import check_weights, have_equal_arrays

_dtype_of = attrgetter("dtype")


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, non-persistent buffers included; detached, not copied."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def module_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Return the memory of every parameter and buffer by name, as a weights file has it."""
    return {name: weight_array(tensor) for name, tensor in module_tensors(module).items()}


class InputTensors:
    """Tensors with memory of their own, which inputs are copied into: programs write to no array of the caller.

    They are used again while shapes and dtypes stay the same, which takes no longer than new tensors without a copy.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._slots: list[tuple[np.ndarray, np.dtype[Any], tuple[int, ...]]] = []

    def fill(self, inputs: Sequence[np.ndarray]) -> list[Tensor]:
        """Return tensors with the values of ``inputs``, valid until the next call."""
        slots = self._slots
        if len(slots) != len(inputs):
            return self._make(inputs)
        for (memory, dtype, shape), array in zip(slots, inputs, strict=True):
            if array.dtype != dtype or array.shape != shape:
                return self._make(inputs)
            memory[...] = array
        return [*self._tensors]  # a module may change the list

    def check_unchanged(self) -> None:
        """Raise PolicyOutputError if the program wrote to a tensor or changed its shape."""
        for tensor in self._tensors:
            if tensor._version:
                self._tensors, self._slots = [], []
                raise PolicyOutputError("copy an input before you change it: the program overwrote one of its inputs")

    def _make(self, inputs: Sequence[np.ndarray]) -> list[Tensor]:
        # torch aligns its memory, so that equal inputs give equal bits wherever the arrays of the caller lie.
        memory = [array_of(tensor_of(array.copy()).clone(memory_format=torch.contiguous_format)) for array in inputs]
        self._slots = [(array, array.dtype, array.shape) for array in memory]
        # A program may let its tensor drop its memory, which the arrays keep alive.
        self._tensors = [tensor_of(array) for array in memory]
        return [*self._tensors]


class EagerEngine:
    """Runs an eager, scripted or traced module whose ``forward`` takes and returns one list of tensors.

    The engine owns the module. ``outputs`` are the positions of the outputs that ``run`` returns; all by default.
    ``dtypes`` are those of all outputs: for some inputs a module may return others, or another number of outputs.
    """

    kind: EngineKind = "eager"

    def __init__(
        self,
        module: nn.Module,
        program_digest: str,
        outputs: Sequence[int] | None = None,
        dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> None:
        self.program_digest = program_digest
        self._module = module.eval()
        self._outputs = outputs
        self._all_dtypes = dtypes
        self._promised = None if dtypes is None else len(dtypes)
        self._dtypes = list(dtypes or ()) if outputs is None or dtypes is None else [dtypes[at] for at in outputs]
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._call: Callable[[list[Tensor]], list[Tensor]] = module
        self._inputs = InputTensors()
        self._inference_mode = torch.inference_mode()  # making one takes a microsecond, entering it less
        # Views of the module's memory: np.copyto accepts a read-only source and releases the GIL.
        self._weights = module_arrays(module)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when the module raises."""
        return self._run_tensors(self._inputs.fill(inputs))

    def _run_tensors(self, tensors: list[Tensor]) -> list[np.ndarray]:
        try:
            with self._inference_mode:
                outputs = self._call(tensors)
                kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
                # Copied, because an output may be a view of an input, a weight or another output.
                arrays = copies_of(kept)
                returned = len(outputs)
        except Exception as error:  # a policy's own code may raise anything
            raise PolicyOutputError(f"the policy raised {type(error).__name__}: {error}") from error
        self._inputs.check_unchanged()
        if self._promised is not None and (returned != self._promised or [*map(_dtype_of, arrays)] != self._dtypes):
            raise PolicyOutputError(
                f"the program does not return what its signature promises: expected {self._promised} outputs, here "
                f"{list(map(str, self._dtypes))}; found {returned}, {[str(array.dtype) for array in arrays]}"
            )
        return arrays

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``."""
        check_weights(self._weights, weights)
        for name, array in self._weights.items():
            np.copyto(array, weights[name], casting="no")

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Compare the module's parameters and buffers; see ``Engine``."""
        return have_equal_arrays(self._weights, weights)

    def twin(self) -> "EagerEngine | None":
        """Return None: a user's module may not support copying."""
        return None


_MOST_COMPILATIONS = 64


class TorchCompileEngine(EagerEngine):
    """Runs a module compiled at its first call, which takes ten seconds or more.

    One compilation serves every batch size and all engines of one network; torch makes another for single rows.
    """

    kind: EngineKind = "compile"

    def __init__(
        self,
        module: nn.Module,
        program_digest: str,
        outputs: Sequence[int] | None = None,
        dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> None:
        super().__init__(module, program_digest, outputs, dtypes)
        # The limit (8 by default) counts all networks of a class; beyond it torch silently stops compiling.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILATIONS)
        self._call = torch.compile(module)
        self._compiled: set[bool] = set()  # false: compiled for one row, true: for several

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when compiling fails or the module raises."""
        has_rows = inputs[0].shape[0] > 1
        if has_rows in self._compiled:
            return super().run(inputs)
        tensors = self._inputs.fill(inputs)
        if has_rows:  # torch treats a size of 1 as a constant
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, 0)
        with warnings.catch_warnings():  # torch's deprecations while it compiles
            warnings.simplefilter("ignore")
            outputs = self._run_tensors(tensors)
        self._compiled.add(has_rows)
        return outputs
