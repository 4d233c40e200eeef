"""Loaded policies whose engines run nothing, for tests of the parts that only move policies and engines about."""

from collections.abc import Mapping, Sequence

import numpy as np

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions, TakeSpare
from actor.loading.loaded_policy import LoadedPolicy, LoadResult, Refusals
from shared.engines.engine import EngineKind
from shared.store.policy_store import VersionFiles
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


def idle_policy(
    version: int, *, program: str = "p", digest: str | None = None, manifest_bytes: bytes = b""
) -> LoadedPolicy:
    """Return a loaded version; digest and engine are its own unless given."""
    return LoadedPolicy(version, digest or f"d{version}", SIGNATURE, IdleEngine(program), "onnx", manifest_bytes)


class StubEngines(EngineFallback):
    """Loads every version without its files, or raises ``error``, or the error of its number in ``errors``."""

    error: BaseException | None = None
    refusals: Refusals = ()

    def __init__(self) -> None:
        super().__init__(EngineOptions("auto", batch_size=1))
        self.errors: dict[int, BaseException] = {}
        self.loaded: list[int] = []

    def load(self, files: VersionFiles, take_spare: TakeSpare) -> LoadResult:
        manifest = files.manifest
        error = self.errors.get(manifest.version, self.error)
        if error is not None:
            raise error
        self.loaded.append(manifest.version)
        policy = idle_policy(manifest.version, digest=manifest.digest, manifest_bytes=files.manifest_bytes)
        return LoadResult(policy, self.refusals)
