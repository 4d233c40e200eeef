"""Sessions of one ONNX graph with different weights. The graph is optimised once, without its weights.

Optimising the graph takes most of the time to create a session, and gives the same result each time. When known weights
let ONNX Runtime do more (a blocked layout for convolutions, a constant computed from a weight), the original graph is
used instead.
"""

import functools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from loguru import logger

from shared.engines.onnx_graph import replace_fields
from shared.errors import ProgramError

_Level = onnxruntime.GraphOptimizationLevel
_PROVIDERS = ["CPUExecutionProvider"]
# The comparison writes the weights to a file; with more of them, optimising is not the largest cost.
_MOST_WEIGHT_BYTES = 16 * 2**20


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
        """Return the optimised graph, its weights still external."""
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
        if not self._packs:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if written_to is not None:
            options.optimized_model_filepath = str(written_to)
        if weights:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in self._initializers]
            options.add_external_initializers(list(self._initializers), values)
        return onnxruntime.InferenceSession(graph, options, providers=_PROVIDERS)


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
    """Return the maker that all engines of ``graph`` share. It is used by one thread at a time.

    With ``packs``, ONNX Runtime copies weights into the memory order that its matrix products prefer.
    """
    return SessionMaker(graph, initializers, threads, packs=packs)


def _operators(graph: bytes) -> Counter[tuple[str, str, tuple[bytes, ...]]]:
    """Count the operators of ``graph`` with their attributes."""
    import onnx

    return Counter(
        (node.domain, node.op_type, tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute)))
        for node in onnx.load_model_from_string(graph).graph.node
    )
