"""Sessions of ONNX Runtime. The weights are initializers of one version, or inputs that each version binds.

A graph is optimised once, without its weights: optimising takes most of the time to create a session, and gives the
same result each time. When known weights let ONNX Runtime do more (a blocked layout for convolutions, a constant
computed from a weight), the original graph is used instead.
"""

import functools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from loguru import logger

from shared.engines.onnx_graph import for_few_rows, replace_fields, with_weights_as_inputs
from shared.errors import ProgramError
from shared.policy.weights import is_bfloat16

_Level = onnxruntime.GraphOptimizationLevel
# The comparison writes the weights to a file; with more of them, optimising is not the largest cost.
_MOST_WEIGHT_BYTES = 16 * 2**20
_CALLS = 4
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_CLEARLY_FASTER = 0.9  # a smaller difference may be noise

Specs = Sequence[tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and dtype of each of several arrays."""


def specs_of(arrays: Sequence[np.ndarray]) -> Specs:
    return [(array.shape, array.dtype) for array in arrays]


def ort_value(array: np.ndarray) -> Any:
    """Return the memory of ``array``, which has to stay alive, as a value of ONNX Runtime."""
    if is_bfloat16(array.dtype):
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


class OnnxSession:
    """A session with the names of its inputs and outputs. Any number of threads may use it at once.

    Attributes:
        takes_weights: True if the session has no weights of its own, so that one session serves every version.
    """

    def __init__(self, session: onnxruntime.InferenceSession, weights: Sequence[str] = ()) -> None:
        """``weights`` are the names of the last inputs of ``session`` that are weights."""
        self.session = session
        self.takes_weights = bool(weights)
        self.weights = tuple(weights)
        self.inputs = [argument.name for argument in session.get_inputs() if argument.name not in self.weights]
        self.outputs = [argument.name for argument in session.get_outputs()]

    def run(self, inputs: Sequence[np.ndarray], weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs as new arrays. Raises what ONNX Runtime raises: its exceptions have no common base."""
        feeds = dict(zip(self.inputs, inputs, strict=True)) | {name: weights[name] for name in self.weights}
        outputs: list[np.ndarray] = self.session.run(None, feeds)
        return outputs


class Binding:
    """Arrays that calls of one session read and write. The weights are read where they are, and must stay alive."""

    def __init__(self, session: OnnxSession, inputs: Specs, outputs: Specs, weights: Mapping[str, np.ndarray]) -> None:
        self.inputs = [np.empty(shape, dtype) for shape, dtype in inputs]
        self.outputs = [np.empty(shape, dtype) for shape, dtype in outputs]
        self.binding = session.session.io_binding()
        read = [*zip(session.inputs, self.inputs, strict=True), *((name, weights[name]) for name in session.weights)]
        for name, array in read:
            self.binding.bind_ortvalue_input(name, ort_value(array))
        for name, array in zip(session.outputs, self.outputs, strict=True):
            self.binding.bind_ortvalue_output(name, ort_value(array))


class SessionMaker:
    """Creates sessions of ``graph``, whose weights are the initializers named in ``initializers``."""

    def __init__(self, graph: bytes, initializers: tuple[str, ...], *, packs: bool) -> None:
        self._given = self._graph = graph
        self._initializers = initializers
        self._packs = packs
        self._level = _Level.ORT_ENABLE_ALL
        self._is_prepared = False
        self._shared: dict[int, OnnxSession | None] = {}

    def make(self, weights: Mapping[str, np.ndarray]) -> OnnxSession:
        """Return a session that reads from ``weights`` while it lives. Raises ProgramError. Releases the GIL."""
        try:
            if not self._is_prepared:
                self._prepare(weights)
            return OnnxSession(self._session(self._graph, self._level, weights))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ProgramError(f"ONNX Runtime: {error}") from error

    def fastest(self, weights: Mapping[str, np.ndarray], inputs: Sequence[np.ndarray]) -> OnnxSession:
        """Return a session that takes weights, unless one with ``weights`` is measured to be clearly faster.

        Calls with ``inputs`` are measured, once for each number of rows. Raises ProgramError.
        """
        rows = len(inputs[0])
        if rows in self._shared:
            return self._shared[rows] or self.make(weights)
        whole = self.make(weights)
        try:
            shared = self._taking_weights()
            outputs = whole.run(inputs, weights)
            whole_s, shared_s = _fastest_call_s([whole, shared], inputs, outputs, weights)
        except Exception as error:  # noqa: BLE001 - as above; not every graph runs with its weights as inputs
            logger.debug("ONNX weights not taken as inputs error={}: {}", type(error).__name__, error)
            self._shared[rows] = None
            return whole
        self._shared[rows] = None if whole_s < _CLEARLY_FASTER * shared_s else shared
        logger.debug(
            "ONNX sessions measured rows={} whole_us={:.0f} inputs_us={:.0f}", rows, 1e6 * whole_s, 1e6 * shared_s
        )
        return self._shared[rows] or whole

    def _taking_weights(self) -> OnnxSession:
        graph = with_weights_as_inputs(for_few_rows(self._given, self._initializers), self._initializers)
        return OnnxSession(self._session(graph, _Level.ORT_ENABLE_ALL, {}), self._initializers)

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
        open_graph = with_weights_as_inputs(self._graph, self._initializers)
        optimised = onnx.load_model_from_string(self._optimised(open_graph, {}))
        initializers = [*optimised.graph.initializer, *outside]
        replace_fields(optimised.graph, input=model.graph.input, initializer=initializers)
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
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised; the rest is noise on a terminal
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = level
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the one whose operators were checked
        if not self._packs:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if written_to is not None:
            options.optimized_model_filepath = str(written_to)
        if weights:
            values = [ort_value(weights[name]) for name in self._initializers]
            options.add_external_initializers(list(self._initializers), values)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@functools.lru_cache(maxsize=4)
def session_maker(graph: bytes, initializers: tuple[str, ...], *, packs: bool) -> SessionMaker:
    """Return the maker that all engines of ``graph`` share; ``packs`` lets ONNX Runtime reorder weights in a copy."""
    return SessionMaker(graph, initializers, packs=packs)


def _fastest_call_s(
    sessions: Sequence[OnnxSession],
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    weights: Mapping[str, np.ndarray],
) -> list[float]:
    """Return the seconds of the fastest of a few interleaved calls of each session."""
    bindings = [Binding(session, specs_of(inputs), specs_of(outputs), weights) for session in sessions]
    for binding in bindings:
        for buffer, array in zip(binding.inputs, inputs, strict=True):
            buffer[...] = array
    times_s: list[list[float]] = [[] for _ in sessions]
    for _ in range(_CALLS):
        for session, binding, measured in zip(sessions, bindings, times_s, strict=True):
            began_s = time.perf_counter()
            session.session.run_with_iobinding(binding.binding)
            measured.append(time.perf_counter() - began_s)
    return [min(measured) for measured in times_s]


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


def _operators(graph: bytes) -> Counter[tuple[str, str, tuple[bytes, ...]]]:
    import onnx

    return Counter(
        (node.domain, node.op_type, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute)))
        for node in onnx.load_model_from_string(graph).graph.node
    )
