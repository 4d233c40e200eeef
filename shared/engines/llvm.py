"""Engine for ONNX graphs compiled by LLVM to one function, with the weights in one block of memory.

It supports fewer operators than ONNX Runtime, and only graphs that treat every row alike, but nothing is looked up,
dispatched or allocated between the first operator and the last. This module imports neither torch nor onnxruntime.
"""

import copy
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs
from shared.engines.row_compiler.llvm_program import LlvmProgram, RowCall, Slot, compile_program, read_program
from shared.engines.row_compiler.row_program import RowProgram
from shared.errors import PolicyOutputError
from shared.policy.output_bounds import Bounds, InBounds
from shared.policy.program_digest import program_digest
from shared.policy.weights import check_weights

_copy = np.ndarray.copy
_MOST_CALLS = 8  # batch sizes in use at once: one in an actor, a few in an actor pool


class LlvmEngine:
    """Compiled program with one block of weights. Inputs and outputs are matched by position."""

    kind: EngineKind = "llvm"

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, np.ndarray],
        *,
        outputs: Sequence[int] | None = None,
        bounds: Sequence[Bounds] | None = None,
    ) -> None:
        """Compile ``graph`` and load ``weights``.

        ``outputs`` are the positions of the outputs that ``run`` computes and returns, by default all; compiled code
        checks one of ``bounds`` for each. Raises ProgramUnsupported for a graph that has other operators or mixes rows,
        ProgramError unless it is an ONNX graph with external weights, and WeightsError.
        """
        self.program_digest = program_digest("onnx", graph)
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        self._bounds = () if bounds is None else tuple(bounds)
        self._compiled = _compile(graph, None if outputs is None else tuple(outputs), self._bounds)
        self.block = self._compiled.make_block()
        """The packed weights, float32. They must not be written to while this engine acts."""
        self._calls: dict[int, RowCall] = {}
        self.load_weights(weights)

    @property
    def code_digest(self) -> str:
        """Digest of the code; engines with equal digests, in any process, can exchange blocks."""
        return self._compiled.digest

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``."""
        check_weights(self._layout, weights)
        self._compiled.pack(weights, self.block)

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Compare the block with a newly packed one; see ``Engine``."""
        packed = self._compiled.make_block()
        self._compiled.pack(weights, packed)
        return np.array_equal(self.block, packed)

    def twin(self) -> "LlvmEngine":
        """Return an engine that shares the compiled code; see ``Engine``."""
        twin = copy.copy(self)
        twin.block = self._compiled.make_block()
        twin._calls = {}
        return twin

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs, as ``InBounds`` if found so; see ``Engine``. Raises PolicyOutputError for bad inputs."""
        try:
            rows = inputs[0].shape[0]
            call = self._calls.get(rows) or self._prepare(rows)
            if not _wrote_two(call.slots, inputs):
                _write(call.slots, inputs)
        except (IndexError, TypeError, ValueError) as error:
            raise PolicyOutputError(f"the inputs do not fit the program: {error}") from error
        is_in_bounds = call.run(call.table)
        found = call.outputs
        # Two is the usual number.
        copies = [found[0].copy(), found[1].copy()] if len(found) == 2 else list(map(_copy, found))
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
    """Copy the inputs. Raises TypeError for an array that does not fit, ValueError for a wrong number of them."""
    for (buffer, dtype, shape), array in zip(slots, inputs, strict=True):
        if array.dtype != dtype or array.shape != shape:  # numpy would broadcast
            raise TypeError(f"expected {dtype} {shape}, found {array.dtype} {array.shape}")
        buffer[...] = array


def _wrote_two(slots: Sequence[Slot], inputs: Sequence[np.ndarray]) -> bool:
    """Copy two inputs (an observation and noise) in half the time of ``_write``; return False for anything else."""
    if len(slots) != 2 or len(inputs) != 2:
        return False
    ((to_x, x_dtype, x_shape), (to_y, y_dtype, y_shape)), (x, y) = slots, inputs
    if x.dtype != x_dtype or x.shape != x_shape or y.dtype != y_dtype or y.shape != y_shape:
        return False
    to_x[...] = x
    to_y[...] = y
    return True


def read_row_program(graph: bytes, outputs: Sequence[int] | None = None) -> RowProgram:
    """Translate ``graph`` without compiling it. Raises ProgramUnsupported, ProgramError."""
    import onnx

    external_initializers(graph)  # raises ProgramError for anything but a graph
    kept = graph if outputs is None else keep_outputs(graph, tuple(outputs))
    return read_program(onnx.load_model_from_string(kept))


@functools.lru_cache(maxsize=4)
def _compile(graph: bytes, outputs: tuple[int, ...] | None, bounds: tuple[Bounds, ...]) -> LlvmProgram:
    return compile_program(read_row_program(graph, outputs), bounds)
