"""Runs an ONNX graph that LLVM compiled for this processor: one function for all rows, with the weights in one block.

It knows fewer operators than ONNX Runtime, and no more than rows of vectors, which is what most policies are. There its
calls cost a fraction: nothing is looked up, dispatched or allocated between the first operator and the last. New
weights are copied into a block of their own. Imports neither torch nor onnxruntime.
"""

import copy
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs
from shared.engines.row_compiler.bounded_outputs import bounded
from shared.engines.row_compiler.graph_reader import read_graph
from shared.engines.row_compiler.llvm_program import LlvmProgram, RowCall, Slot, check_size
from shared.engines.row_compiler.row_program import RowProgram
from shared.errors import PolicyOutputError
from shared.policy.output_bounds import Bounds, InBounds
from shared.policy.program_digest import onnx_program_digest
from shared.policy.weights import check_finite, check_layout

_copy = np.ndarray.copy
_MOST_CALLS = 8  # batch sizes in use at once: an actor has one, a pool of them a few


class LlvmEngine:
    """One compiled program with one block of weights. Inputs and outputs go by position."""

    kind: EngineKind = "llvm"

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, np.ndarray],
        *,
        outputs: Sequence[int] | None = None,
        bounds: Sequence[Bounds] | None = None,
    ) -> None:
        """Raises ProgramUnsupported for a graph that is not of this engine, ProgramError for what is no graph of ours,
        WeightsError where ``weights`` lack an initializer, or have another shape or dtype than it.

        What ``outputs`` do not need is not computed. ``bounds``, one for each of them, are checked by the code.
        """
        self.program_digest = onnx_program_digest(graph)
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        self._bounds = () if bounds is None else tuple(bounds)
        self._compiled = _compile(graph, None if outputs is None else tuple(outputs), self._bounds)
        self.block = self._compiled.make_block()
        """The weights as the code reads them, float32. Not to be written to while this engine acts."""
        self._calls: dict[int, RowCall] = {}
        self.load_weights(weights)

    @property
    def code_digest(self) -> str:
        """Engines with the same one may exchange blocks, whatever process they are in."""
        return self._compiled.digest

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See Engine."""
        check_layout(self._layout, weights)
        check_finite(weights)
        self._compiled.pack(weights, self.block)

    def twin(self) -> "LlvmEngine":
        """See Engine. It shares with this one what is never written to."""
        twin = copy.copy(self)
        twin.block = self._compiled.make_block()
        twin._calls = {}
        return twin

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError for inputs of another dtype or shape than the graph's.

        The outputs are ``InBounds`` where the code found them to be.
        """
        try:
            rows = inputs[0].shape[0]
            call = self._calls.get(rows) or self._prepare(rows)
            if not _wrote_two(call.slots, inputs):
                _write(call.slots, inputs)
        except (IndexError, TypeError, ValueError) as error:
            raise PolicyOutputError(f"inputs that do not fit the program: {error}") from error
        is_in_bounds = call.run(call.table)
        found = call.outputs
        copies = [found[0].copy(), found[1].copy()] if len(found) == 2 else list(map(_copy, found))  # mostly two
        if not is_in_bounds:
            return copies
        outputs = InBounds(copies)
        outputs.bounds = self._bounds
        return outputs

    def _prepare(self, rows: int) -> RowCall:
        if len(self._calls) >= _MOST_CALLS:
            self._calls.clear()
        self._calls[rows] = RowCall(self._compiled, self.block, rows)
        return self._calls[rows]


def _write(slots: Sequence[Slot], inputs: Sequence[np.ndarray]) -> None:
    """Raises TypeError for an array that does not fit, ValueError for more or fewer of them."""
    for (buffer, dtype, shape), array in zip(slots, inputs, strict=True):
        if array.dtype != dtype or array.shape != shape:  # numpy would broadcast
            raise TypeError(f"expected {dtype} {shape}, found {array.dtype} {array.shape}")
        buffer[...] = array


def _wrote_two(slots: Sequence[Slot], inputs: Sequence[np.ndarray]) -> bool:
    """``_write`` in half the time, for what nearly every policy takes: one observation, and noise. False for others."""
    if len(slots) != 2 or len(inputs) != 2:
        return False
    ((to_x, x_dtype, x_shape), (to_y, y_dtype, y_shape)), (x, y) = slots, inputs
    if x.dtype != x_dtype or x.shape != x_shape or y.dtype != y_dtype or y.shape != y_shape:
        return False
    to_x[...] = x
    to_y[...] = y
    return True


def read_row_program(graph: bytes, outputs: Sequence[int] | None = None) -> RowProgram:
    """``graph`` as this engine understands it. Runs and compiles nothing. Raises ProgramUnsupported, ProgramError."""
    import onnx

    external_initializers(graph)  # raises ProgramError for what is no graph
    kept = graph if outputs is None else keep_outputs(graph, tuple(outputs))
    program = read_graph(onnx.load_model_from_string(kept))
    check_size(program)
    return program


@functools.lru_cache(maxsize=4)
def _compile(graph: bytes, outputs: tuple[int, ...] | None, bounds: tuple[Bounds, ...]) -> LlvmProgram:
    compiled = LlvmProgram(bounded(read_row_program(graph, outputs), bounds))
    compiled.machine_code(is_brief=True)  # most calls are: what LLVM refuses is known before the first
    return compiled
