"""The verified content of a version that is being loaded, with the errors of the engines tried so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from actor.loading.weight_preloading import TakeSpare, WeightPreloader
from actor.verification.probe_verifier import ProbeVerifier
from shared.errors import PolicyLoadError, ProgramError, StoreError, TransientLoadError, one_line
from shared.files.buffer_pool import Data
from shared.policy.manifest import Manifest, ProgramEntry
from shared.policy.program_digest import program_digest
from shared.store.policy_store import VersionFiles


@dataclass
class VersionMaterial:
    """What every engine of one version starts from, read and verified once.

    ``refusals`` are names of engines with the messages of their errors, in order; ``errors`` are the errors.
    """

    files: VersionFiles
    manifest: Manifest
    weights_bytes: Data
    weights: Mapping[str, np.ndarray]
    verifier: ProbeVerifier
    take_spare: TakeSpare
    preloader: WeightPreloader
    refusals: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def read(self, name: str) -> Data:
        """Return a file's verified bytes. The weights are in memory already."""
        return self.weights_bytes if name == self.manifest.weights else self.files.read(name)

    def refuse(self, engine_name: str, error: Exception) -> None:
        """Record that an engine refused the version."""
        self.refusals.append((engine_name, str(error) or type(error).__name__))
        self.errors.append(error)

    def has_program(self, entry: ProgramEntry) -> bool:
        """Return True when the file of ``entry`` holds the program that the manifest names."""
        try:
            return program_digest(entry.kind, bytes(self.read(entry.file))) == entry.program_digest
        except (PolicyLoadError, StoreError):
            return False

    def failure(self) -> Exception:
        """Return one error for all engines.

        It has the class that all errors share, or is transient if one of them was: that engine may work later.
        """
        errors = self.errors
        if len(errors) == 1 and isinstance(errors[0], PolicyLoadError):
            return errors[0]
        said = "; ".join(f"{name}: {one_line(message)}" for name, message in self.refusals)
        kinds = {type(error) for error in errors}
        kind: type[PolicyLoadError] = ProgramError
        if any(issubclass(k, TransientLoadError) for k in kinds):
            kind = TransientLoadError
        elif len(kinds) == 1 and issubclass(only := kinds.pop(), PolicyLoadError):
            kind = only
        failure = kind(said or "none of its programs can be run here")
        failure.__cause__ = errors[0] if errors else None
        return failure
