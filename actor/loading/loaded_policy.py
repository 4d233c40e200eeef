"""What acts: one version, its content's digest and the engine that runs it, in one immutable object."""

from dataclasses import dataclass

from shared.engines.engine import Engine
from shared.policy.manifest import Manifest, decode_manifest_again
from shared.policy.signature import PolicySignature


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A version that was verified and warmed up. What a rollout is stamped with is read from the object that acted.

    ``engine_name`` says what runs it: ``onnx``, ``torchscript``, or ``script``, ``trace`` or ``eager`` for an
    importable
    policy.
    """

    version: int
    digest: str
    signature: PolicySignature
    engine: Engine
    engine_name: str
    manifest_bytes: bytes
    """The manifest as it was found."""

    @property
    def manifest(self) -> Manifest:
        """All that the manifest says; decoded for each that asks, who are few."""
        return decode_manifest_again(self.manifest_bytes)
