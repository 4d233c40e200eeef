"""What acts: one version, its content's digest and the engine that runs it, in one immutable object."""

from dataclasses import dataclass

from shared.engines.engine import Engine
from shared.manifest import Manifest


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A version that was verified and warmed up. What a rollout is stamped with is read from the object that acted.

    ``rung`` says what runs it: ``onnx``, ``torchscript``, or ``script``, ``trace`` or ``eager`` for an importable
    policy.
    """

    version: int
    digest: str
    manifest: Manifest
    engine: Engine
    rung: str
