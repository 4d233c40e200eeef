"""The result of a load: a version with the engine that runs it, and the engines that refused it."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.deprecation import renamed
from shared.engines.engine import Engine
from shared.errors import one_line
from shared.policy.manifest import Manifest, decode_manifest_again
from shared.policy.signature import PolicySignature

Refusals = Sequence[tuple[str, str]]  # engines in the order in which they were tried, with their errors


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A verified, warm version. Rollouts take their version and digest from the policy that acted.

    ``engine_name`` is the engine's kind, or ``script``, ``trace`` or ``eager`` for an importable policy.
    """

    version: int
    digest: str
    signature: PolicySignature
    engine: Engine
    engine_name: str
    manifest_bytes: bytes
    load_ms: float | None = None
    """The time of the load; None for a version that another process verified."""

    rung = renamed("LoadedPolicy", "rung", "engine_name")

    @property
    def manifest(self) -> Manifest:
        """The whole manifest, decoded at each access: few callers need it."""
        return decode_manifest_again(self.manifest_bytes)


@dataclass(frozen=True)
class LoadResult:
    """A policy, and the engines that were tried before and refused it."""

    policy: LoadedPolicy
    refusals: Refusals

    def describe(self) -> str | None:
        """Return one line on the engine in use and on the refusals, or None without refusals."""
        if not self.refusals:
            return None
        said = "; ".join(f"{name} said: {one_line(message)}" for name, message in self.refusals)
        return f"version {self.policy.version}: {self.policy.engine_name} taken; {said}"
