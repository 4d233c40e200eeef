"""Weights of a program that is here already, brought into an engine while another thread still hashes them.

For a large network hashing takes about as long as making an ONNX session, and neither needs the other. Nothing runs
meanwhile: an engine is given out only together with the very bytes that turned out to be right.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from loguru import logger

from shared.engines.engine import Engine, EngineKind
from shared.files.buffer_pool import Data
from shared.policy.weights import decode_weights

TakeSpare = Callable[[EngineKind, str], Engine | None]
"""An engine of the program with this digest that may be written to, or None."""


class _Made(NamedTuple):
    """What was made of bytes: their tensors, and the engine that has them, if there was a spare one."""

    data: Data
    weights: Mapping[str, np.ndarray]
    engine: Engine | None


class WeightPreloader:
    """For one version: its weights, and an engine that has them, of the program that would be tried first."""

    def __init__(self, first: tuple[EngineKind, str] | None, take_spare: TakeSpare) -> None:
        """``first``: an engine, and the digest of the program that it runs."""
        self._first = first
        self._take_spare = take_spare
        self._unverified: _Made | None = None
        self._engine: Engine | None = None

    def bring(self, unverified: Data) -> None:
        """Bring the weights in ``unverified`` into a spare engine, if there is one. Never raises."""
        try:
            weights = decode_weights(unverified)
            engine = None if self._first is None else self._take_spare(*self._first)
            if engine is not None:
                engine.load_weights(weights)
            self._unverified = _Made(unverified, weights, engine)
        except Exception as error:  # noqa: BLE001 - if these are the right bytes, it is raised again where that counts
            logger.debug("weights were not brought in ahead: {}: {}", type(error).__name__, error)

    def weights(self, verified: Data) -> Mapping[str, np.ndarray]:
        """The tensors in ``verified``; what was made of any other bytes is forgotten. Raises WeightsError."""
        made, self._unverified = self._unverified, None
        if made is None or made.data is not verified:
            return decode_weights(verified)
        self._engine = made.engine
        return made.weights

    def take(self, kind: EngineKind, program_digest: str) -> Engine | None:
        """The engine of that program that has ``weights``, once; None where there is none."""
        if self._engine is None or (kind, program_digest) != self._first:
            return None
        engine, self._engine = self._engine, None
        return engine
