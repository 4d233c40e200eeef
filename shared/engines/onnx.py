"""Engine for ONNX graphs in ONNX Runtime, with weights passed in memory. This module does not import torch.

A graph is optimised once, without its weights: optimising takes most of the time to create a session, and gives the
same result each time. When known weights let ONNX Runtime do more (a blocked layout for convolutions, a constant
computed from a weight), the original graph is used instead.
"""

import copy
import functools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from loguru import logger

from shared.engines.engine import EngineKind
from shared.engines.onnx_graph import check_external_initializers, external_initializers, keep_outputs, replace_fields
from shared.errors import PolicyOutputError, ProgramError
from shared.files.buffer_pool import is_lasting
from shared.policy.program_digest import program_digest
from shared.policy.weights import check_weights, have_equal_arrays

_Level = onnxruntime.GraphOptimizationLevel
# The comparison writes the weights to a file; with more of them, optimising is not the largest cost.
_MOST_WEIGHT_BYTES = 16 * 2**20
_LARGE_BYTES = 2**22
_MOST_BINDINGS = 8  # batch sizes in use at once: one in an actor, a few in an actor pool


class OnnxEngine:
    """One ONNX Runtime session with buffers bound once per batch size, which is faster than ``session.run``."""

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
        """Create a session of ``graph`` with ``weights``, which are copied unless they are immutable.

        Args:
            threads: size of ONNX Runtime's thread pool.
            bind: false for graphs whose shapes do not follow from the first dimension of the first input.
            outputs: positions of the outputs to compute and return; all by default.
            batch_size: usual number of rows per call, if known.

        Raises ProgramError unless ``graph`` is an ONNX graph with external weights, and WeightsError.
        """
        self._bind_buffers = bind
        self.program_digest = program_digest("onnx", graph)
        self._threads = threads
        self._output_specs: dict[int, list[tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        self._layout = {name: np.broadcast_to(np.empty((), a.dtype), a.shape) for name, a in weights.items()}
        check_external_initializers(graph, weights)
        self._graph = graph if outputs is None else keep_outputs(graph, tuple(outputs))
        self._initializers = external_initializers(self._graph)
        # Packing weights quadruples the time to make a session and doubles their memory, and does not speed up calls
        # with one row, which are bound by reading the weights.
        self._packs = batch_size != 1 or sum(array.nbytes for array in weights.values()) < _LARGE_BYTES
        self._session: Any = None
        self.load_weights(weights)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``. Creates a session in one or two milliseconds, without the GIL.

        After a ProgramError of ONNX Runtime the engine cannot run until weights are loaded successfully.
        """
        check_weights(self._layout, weights)
        # The old session is freed first, so that the new one reuses its memory: fresh pages are slow.
        self._session = None
        self._bindings: dict[int, _Binding] = {}
        self._weights = {name: _lasting(array) for name, array in weights.items()}  # alive as long as the session
        self._session = session_maker(self._graph, self._initializers, self._threads, packs=self._packs).make(
            self._weights
        )

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Compare the arrays that the session reads; see ``Engine``."""
        return have_equal_arrays(self._weights, weights)

    def twin(self) -> "OnnxEngine":
        """Return a copy; ``load_weights`` replaces everything that depends on weights. See ``Engine``."""
        return copy.copy(self)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError for any error of ONNX Runtime."""
        if self._session is None:
            raise PolicyOutputError("load weights again: ONNX Runtime could not create a session with the last ones")
        try:
            if not self._bind_buffers:
                return self._run_unbound(inputs)
            batch_size = inputs[0].shape[0]
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
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    def _bind(self, batch_size: int, inputs: Sequence[np.ndarray]) -> "_Binding":
        """Bind buffers for one batch size. A plain call finds the shapes of the outputs."""
        if batch_size not in self._output_specs:
            outputs = self._run_unbound(inputs)
            self._output_specs[batch_size] = [(output.shape, output.dtype) for output in outputs]
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        self._bindings[batch_size] = _Binding(self._session, inputs, self._output_specs[batch_size])
        return self._bindings[batch_size]


class _Binding:
    """Arrays that one session reads and writes at one batch size."""

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
    """Return ``array`` itself when it is an aligned view of immutable memory, else a copy."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    is_fit = array.flags.c_contiguous and array.flags.aligned
    return array if is_lasting(memory) and is_fit else np.array(array, order="C")


class SessionMaker:
    """Creates sessions of ``graph``, whose weights are the initializers named in ``initializers``."""

    def __init__(self, graph: bytes, initializers: tuple[str, ...], threads: int, *, packs: bool) -> None:
        self._graph = graph
        self._initializers = initializers
        self._threads = threads
        self._packs = packs
        self._level = _Level.ORT_ENABLE_ALL
        self._is_prepared = False

    def make(self, weights: Mapping[str, np.ndarray]) -> onnxruntime.InferenceSession:
        """Return a session that reads from ``weights`` while it lives. Raises ProgramError. Releases the GIL."""
        try:
            if not self._is_prepared:
                self._prepare(weights)
            return self._session(self._graph, self._level, weights)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ProgramError(f"ONNX Runtime: {error}") from error

    def _prepare(self, weights: Mapping[str, np.ndarray]) -> None:
        self._is_prepared = True
        if sum(weights[name].nbytes for name in self._initializers) > _MOST_WEIGHT_BYTES:
            return
        self._session(self._graph, _Level.ORT_DISABLE_ALL, weights)  # raises the errors of the graph itself
        try:
            prepared = self._optimised_without_weights()
            if _operators(self._optimised(prepared, weights)) == _operators(prepared):
                self._graph, self._level = prepared, _Level.ORT_DISABLE_ALL
        except Exception as error:  # noqa: BLE001 - as above; an unprepared graph only loads slower
            logger.debug("ONNX graph not prepared error={}: {}", type(error).__name__, error)

    def _optimised_without_weights(self) -> bytes:
        import onnx

        model = onnx.load_model_from_string(self._graph)
        outside = [tensor for tensor in model.graph.initializer if tensor.name in self._initializers]
        inside = [tensor for tensor in model.graph.initializer if tensor.name not in self._initializers]
        weights = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in outside]
        inputs = list(model.graph.input)
        open_model = onnx.ModelProto()
        open_model.CopyFrom(model)
        replace_fields(open_model.graph, input=[*inputs, *weights], initializer=inside)
        optimised = onnx.load_model_from_string(self._optimised(open_model.SerializeToString(), {}))
        replace_fields(optimised.graph, input=inputs, initializer=[*optimised.graph.initializer, *outside])
        graph: bytes = optimised.SerializeToString()
        return graph

    def _optimised(self, graph: bytes, weights: Mapping[str, np.ndarray]) -> bytes:
        """Return ``graph`` optimised by ONNX Runtime: for this processor, or without ``weights`` for any."""
        level = _Level.ORT_ENABLE_ALL if weights else _Level.ORT_ENABLE_EXTENDED
        with _file_to_write_to() as path:
            self._session(graph, level, weights, written_to=path)
            return path.read_bytes()

    def _session(
        self, graph: bytes, level: Any, weights: Mapping[str, np.ndarray], written_to: Path | None = None
    ) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised; the rest is noise on a terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = level
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the one whose operators were checked
        if not self._packs:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if written_to is not None:
            options.optimized_model_filepath = str(written_to)
        if weights:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in self._initializers]
            options.add_external_initializers(list(self._initializers), values)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextmanager
def _file_to_write_to() -> Iterator[Path]:
    """Yield a writable path, in memory on Linux, so that a killed process leaves no file."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("rl-hotswap-optimised.onnx")
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="rl-hotswap-") as directory:
        yield Path(directory) / "optimised.onnx"


@functools.lru_cache(maxsize=4)
def session_maker(graph: bytes, initializers: tuple[str, ...], threads: int, *, packs: bool) -> SessionMaker:
    """Return the maker that all engines of ``graph`` share; ``packs`` lets ONNX Runtime reorder weights in a copy."""
    return SessionMaker(graph, initializers, threads, packs=packs)


def _operators(graph: bytes) -> Counter[tuple[str, str, tuple[bytes, ...]]]:
    import onnx

    return Counter(
        (node.domain, node.op_type, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute)))
        for node in onnx.load_model_from_string(graph).graph.node
    )
