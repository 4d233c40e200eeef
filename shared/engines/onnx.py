"""Engine for ONNX graphs in ONNX Runtime, with weights passed in memory. This module does not import torch."""

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs
from shared.engines.onnx_session import Binding, OnnxSession, Specs, session_maker, specs_of
from shared.errors import PolicyOutputError
from shared.files.buffer_pool import is_lasting
from shared.policy.program_digest import program_digest
from shared.policy.weights import check_weights, have_equal_arrays

_LARGE_BYTES = 2**22
_FEW_ROWS = 8
_MOST_BINDINGS = 8  # shapes in use at once: one in an actor, a few in an actor pool
_MOST_SHAPES = 64
# Copying more into buffers and out of them takes longer than ``session.run`` takes to wrap the arrays.
_MOST_BOUND_BYTES = 2**16


class OnnxEngine:
    """A session of ONNX Runtime with buffers bound once for the shapes in use, which is faster than ``session.run``.

    Large weights that few rows are multiplied with are no part of the session if that makes no call slower (see
    ``SessionMaker.fastest``): the session serves every version, and new weights are bound in microseconds.
    """

    kind: EngineKind = "onnx"

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, np.ndarray],
        *,
        bind: bool = True,
        outputs: Sequence[int] | None = None,
        batch_size: int | None = None,
        measure_with: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Create a session of ``graph`` with ``weights``, which are copied unless they are immutable.

        Args:
            bind: false for graphs whose shapes do not follow from the first dimension of the first input.
            outputs: positions of the outputs to compute and return; all by default.
            batch_size: usual number of rows per call, if known.
            measure_with: inputs of so many rows, to choose the faster kind of session; None to measure nothing.

        Raises ProgramError unless ``graph`` is an ONNX graph with external weights, and WeightsError.
        """
        self._is_batch_first = bind
        self.program_digest = program_digest("onnx", graph)
        self._shapes: dict[Hashable, tuple[Specs, Specs] | None] = {}  # None: not to be bound
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        graph = graph if outputs is None else keep_outputs(graph, tuple(outputs))
        is_large = sum(array.nbytes for array in weights.values()) >= _LARGE_BYTES
        # Packing weights quadruples the time to make a session and doubles their memory, and does not speed up calls
        # with one row, which are bound by reading the weights.
        packs = batch_size != 1 or not is_large
        self._maker = session_maker(graph, external_initializers(graph), packs=packs)
        self._session: OnnxSession | None = None
        self._take(weights)
        if measure_with is not None and is_large and len(measure_with[0]) <= _FEW_ROWS:
            self._session = self._maker.fastest(self._weights, measure_with)
        else:
            self._session = self._maker.make(self._weights)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``. Creates a session, without the GIL, unless the session takes weights.

        After a ProgramError of ONNX Runtime the engine cannot run until weights are loaded successfully.
        """
        self._take(weights)
        if self._session is None or not self._session.takes_weights:
            # The old session is freed first, so that the new one reuses its memory: fresh pages are slow.
            self._session = None
            self._session = self._maker.make(self._weights)

    def _take(self, weights: Mapping[str, np.ndarray]) -> None:
        check_weights(self._layout, weights)
        self._bindings: dict[Hashable, Binding] = {}
        self._weights = {name: _lasting(array) for name, array in weights.items()}  # read by the session in each call

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Compare the arrays that the session reads; see ``Engine``."""
        return have_equal_arrays(self._weights, weights)

    def twin(self) -> "OnnxEngine":
        """Return a copy; ``load_weights`` replaces everything that depends on weights. See ``Engine``."""
        return copy.copy(self)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError for any error of ONNX Runtime."""
        session = self._session
        if session is None:
            raise PolicyOutputError("load weights again: ONNX Runtime could not create a session with the last ones")
        key: Hashable = None
        try:
            key = inputs[0].shape[0] if self._is_batch_first else tuple([array.shape for array in inputs])
            binding = self._bindings.get(key) or self._bind(session, key)
            if binding is None:
                return self._run_unbound(session, key, inputs)
            for buffer, array in zip(binding.inputs, inputs, strict=True):
                if array.dtype != buffer.dtype:
                    raise TypeError(f"expected {buffer.dtype}, found {array.dtype}")
                buffer[...] = array  # a third of what numpy.copyto(casting="no") takes
            session.session.run_with_iobinding(binding.binding)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            if not self._is_batch_first and self._bindings.pop(key, None) is not None:
                self._shapes[key] = None  # the shapes of the outputs may depend on the data
                return self.run(inputs)
            raise PolicyOutputError(f"ONNX Runtime: {error}") from error
        return [buffer.copy() for buffer in binding.outputs]

    def _bind(self, session: OnnxSession, key: Hashable) -> Binding | None:
        """Bind buffers for known shapes; return None for others."""
        if (shapes := self._shapes.get(key)) is None:
            return None
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        self._bindings[key] = Binding(session, *shapes, self._weights)
        return self._bindings[key]

    def _run_unbound(self, session: OnnxSession, key: Hashable, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once without buffers: the outputs show the shapes to bind, if buffers make later calls faster."""
        outputs = session.run(inputs, self._weights)
        if key not in self._shapes:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[key] = (
                (specs_of(inputs), specs_of(outputs)) if self._is_worth_binding(inputs, outputs) else None
            )
        return outputs

    def _is_worth_binding(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> bool:
        sizes = [array.nbytes for array in (*inputs, *outputs)]
        return self._is_batch_first or (sum(sizes) <= _MOST_BOUND_BYTES and 0 not in sizes)


def _lasting(array: np.ndarray) -> np.ndarray:
    """Return ``array`` itself when it is an aligned view of immutable memory, else a copy."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    is_fit = array.flags.c_contiguous and array.flags.aligned
    return array if is_lasting(memory) and is_fit else np.array(array, order="C")
