"""Runs an ONNX graph whose weights are handed over in memory. Imports no torch: an actor on ONNX Runtime never does."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs
from shared.engines.onnx_sessions import session_maker
from shared.errors import PolicyOutputError
from shared.files.buffer_pool import is_lasting
from shared.policy.program_digest import onnx_program_digest
from shared.policy.weights import check_finite, check_layout

_LARGE_BYTES = 2**22
_MOST_BINDINGS = 8  # batch sizes in use at once: an actor has one, a pool of them a few


class OnnxEngine:
    """One session. Inputs and outputs go by position: the graph's are in the order of the policy's signature.

    ``run`` goes through buffers that are bound once for each batch size, which is faster than ``session.run``.
    """

    kind: EngineKind = "onnx"

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, np.ndarray],
        threads: int = 1,
        *,
        bind: bool = True,
        outputs: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Raises ProgramError for what is no graph of ours, WeightsError where ``weights`` lack an initializer, or have
        another shape or dtype than it.

        The session goes on reading from ``weights``, so all but views of bytes are copied. ``bind=False`` is for graphs
        whose first input's first dimension does not say what shapes all others have. What ``outputs`` do not need is
        not computed. ``batch_size``: how many rows ``run`` will mostly be given, where that is known.
        """
        self._bind_buffers = bind
        self.program_digest = onnx_program_digest(graph)
        self._threads = threads
        self._output_specs: dict[int, list[tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        self._graph = graph if outputs is None else keep_outputs(graph, tuple(outputs))
        self._initializers = external_initializers(self._graph)
        # One row is multiplied as fast as its weights are read, in whatever order they stand. Packing them takes four
        # times as long as all else about a session, and the same memory again.
        self._packs = batch_size != 1 or sum(array.nbytes for array in weights.values()) < _LARGE_BYTES
        self._session: Any = None
        self.load_weights(weights)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See Engine. Makes a new session, which costs a millisecond or two and does not hold the GIL.

        Where ONNX Runtime fails to make one (ProgramError), this engine can do nothing but load weights again.
        """
        check_layout(self._layout, weights)
        check_finite(weights)
        # The old ones go first, so that the new session gets their memory: fresh pages cost more than what is in them.
        self._session = None
        self._bindings: dict[int, _Binding] = {}
        self._weights = {name: _lasting(array) for name, array in weights.items()}  # as long as the session
        self._session = session_maker(self._graph, self._initializers, self._threads, packs=self._packs).make(
            self._weights
        )

    def twin(self) -> "OnnxEngine":
        """See Engine. Whatever depends on weights, ``load_weights`` makes anew."""
        return copy.copy(self)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError where ONNX Runtime does."""
        if self._session is None:
            raise PolicyOutputError("ONNX Runtime: no weights, since no session could be made of the last ones")
        if not self._bind_buffers:
            return self._run_unbound(inputs)
        batch_size = inputs[0].shape[0]
        try:
            binding = self._bindings.get(batch_size)
            if binding is None:
                binding = self._bind(batch_size, inputs)
            for buffer, array in zip(binding.inputs, inputs, strict=True):
                if array.dtype != buffer.dtype:
                    raise TypeError(f"expected {buffer.dtype}, found {array.dtype}")
                buffer[...] = array  # a third of what numpy.copyto(casting="no") takes
            self._session.run_with_iobinding(binding.binding)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise PolicyOutputError(f"ONNX Runtime: {error}") from error
        return [buffer.copy() for buffer in binding.outputs]

    def _run_unbound(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [argument.name for argument in self._session.get_inputs()]
        try:
            outputs: list[np.ndarray] = self._session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:  # as above
            raise PolicyOutputError(f"ONNX Runtime: {error}") from error
        return outputs

    def _bind(self, batch_size: int, inputs: Sequence[np.ndarray]) -> "_Binding":
        """Buffers for one batch size. What the outputs look like is learned from a plain call."""
        if batch_size not in self._output_specs:
            names = [argument.name for argument in self._session.get_inputs()]
            outputs = self._session.run(None, dict(zip(names, inputs, strict=True)))
            self._output_specs[batch_size] = [(output.shape, output.dtype) for output in outputs]
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        self._bindings[batch_size] = _Binding(self._session, inputs, self._output_specs[batch_size])
        return self._bindings[batch_size]


class _Binding:
    """The arrays that one session reads and writes at one batch size."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> None:
        self.inputs = [np.empty_like(array, order="C") for array in inputs]
        self.outputs = [np.empty(shape, dtype) for shape, dtype in outputs]
        self.binding = session.io_binding()
        for argument, buffer in zip(session.get_inputs(), self.inputs, strict=True):
            self.binding.bind_ortvalue_input(argument.name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
        for argument, buffer in zip(session.get_outputs(), self.outputs, strict=True):
            self.binding.bind_ortvalue_output(argument.name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))


def _lasting(array: np.ndarray) -> np.ndarray:
    """The array itself where nobody can change it as long as it is there, being a view of bytes; else a copy."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    is_fit = array.flags.c_contiguous and array.flags.aligned
    return array if is_lasting(memory) and is_fit else np.array(array, order="C")
