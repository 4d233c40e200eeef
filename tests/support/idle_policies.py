"""Loaded policies whose engines run nothing, for tests of the parts that only move policies and engines about."""

from collections.abc import Mapping, Sequence

import numpy as np

from actor.loading.loaded_policy import LoadedPolicy
from shared.engines.engine import EngineKind
from tests.support.sample_versions import SIGNATURE


class IdleEngine:
    """An engine that fails the test when it is run."""

    kind: EngineKind = "onnx"

    def __init__(self, program_digest: str) -> None:
        self.program_digest = program_digest

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise AssertionError("nothing runs here")

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        raise AssertionError("nothing is loaded here")

    def twin(self) -> "IdleEngine":
        return IdleEngine(self.program_digest)


def idle_policy(version: int, *, program: str = "p", digest: str | None = None) -> LoadedPolicy:
    """Return a loaded version; digest and engine are its own unless given."""
    return LoadedPolicy(version, digest or f"d{version}", SIGNATURE, IdleEngine(program), "onnx", b"")
