"""Preloading of weights: a spare engine receives them while another thread still hashes their bytes.

For a large network hashing takes about as long as making an ONNX session, and neither depends on the other. The engine
does not run meanwhile: it is handed over only if its bytes turn out to be the verified ones.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from loguru import logger

from shared.engines.engine import Engine, EngineKind
from shared.files.buffer_pool import Data
from shared.policy.weights import decode_weights

TakeSpare = Callable[[EngineKind, str], Engine | None]
"""Returns an engine of the program with this digest whose weights may be overwritten, or None."""


class _Preloaded(NamedTuple):
    data: Data
    weights: Mapping[str, np.ndarray]
    engine: Engine | None


class WeightPreloader:
    """Holds one version's weights, and an engine of ``first`` (a kind and a program's digest) that has them."""

    def __init__(self, first: tuple[EngineKind, str] | None, take_spare: TakeSpare) -> None:
        self._first = first
        self._take_spare = take_spare
        self._preloaded: _Preloaded | None = None
        self._engine: Engine | None = None

    def preload(self, unverified: Data) -> None:
        """Load the weights in ``unverified`` into a spare engine, if there is one. Never raises."""
        try:
            weights = decode_weights(unverified)
            engine = None if self._first is None else self._take_spare(*self._first)
            if engine is not None:
                engine.load_weights(weights)
            self._preloaded = _Preloaded(unverified, weights, engine)
        except Exception as error:  # noqa: BLE001 - if the bytes are right, the load raises it again
            logger.debug("weights not preloaded error={}: {}", type(error).__name__, error)

    def weights(self, verified: Data) -> Mapping[str, np.ndarray]:
        """Return the tensors in ``verified``; drop what was preloaded from other bytes. Raises WeightsError."""
        preloaded, self._preloaded = self._preloaded, None
        if preloaded is None or preloaded.data is not verified:
            return decode_weights(verified)
        self._engine = preloaded.engine
        return preloaded.weights

    def take(self, kind: EngineKind, program_digest: str) -> Engine | None:
        """Return the engine of that program that has ``weights``, once; None if there is none."""
        if self._engine is None or (kind, program_digest) != self._first:
            return None
        engine, self._engine = self._engine, None
        return engine
