"""The making of one engine of a version: a spare engine with new weights, or the program loaded as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from loguru import logger

from actor.sandbox.program_sandbox import ProgramSandbox, is_sandboxed
from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.load import load_program, output_dtypes, read_program
from shared.errors import PermanentLoadError, PolicyLoadError, ProgramError, StoreError, TransientLoadError, one_line
from shared.files.buffer_pool import BufferPool, Data
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.policy.manifest import Manifest, ProgramEntry
from shared.policy.probe import decode_probe
from shared.policy.program_digest import program_digest
from shared.policy.signature import PolicySignature
from shared.policy.weights import decode_weights
from shared.store.policy_store import VersionFiles

if TYPE_CHECKING:
    from torch import Tensor

NamedEngine = tuple[Engine, str]
"""A verified engine and its name: its kind, or ``script``, ``trace`` or ``eager`` for an importable policy."""
Program = tuple[EngineKind, str]  # an engine, and the digest of the program that it runs
TakeSpare = Callable[[EngineKind, str], Engine | None]
"""Returns an engine of the program with this digest whose weights may be overwritten, or None."""

# The first calls after a load are slow: TorchScript profiles, ONNX Runtime sizes its arena. The probe makes two calls.
_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class EngineOptions:
    """The choice and the making of engines (see ``AgentOptions`` for the other fields).

    Args:
        measure: True to let ``auto`` compare engines by time; False to keep a fixed order, so that equal inputs give
            equal bits in every run.
        signature: a signature for the environment in use; versions for another environment are refused.
    """

    choice: EngineChoice
    batch_size: int
    trust: ProgramTrust = PURE_ONLY
    measure: bool = True
    values: bool = False
    signature: PolicySignature | None = None


class WeightPreloader:
    """Holds one version's weights, and an engine of ``first`` (a kind and a program's digest) that has them.

    A spare engine receives the weights while another thread still hashes their bytes: for a large network hashing takes
    about as long as making an ONNX session. The engine is handed over only if its bytes are the verified ones.
    """

    def __init__(self, first: Program | None, take_spare: TakeSpare) -> None:
        self._first = first
        self._take_spare = take_spare
        self._preloaded: tuple[Data, Mapping[str, np.ndarray], Engine | None] | None = None
        self._engine: Engine | None = None

    def preload(self, unverified: Data) -> None:
        """Load the weights in ``unverified`` into a spare engine, if there is one. Never raises."""
        try:
            weights = decode_weights(unverified)
            engine = None if self._first is None else self._take_spare(*self._first)
            if engine is not None:
                engine.load_weights(weights)
            self._preloaded = (unverified, weights, engine)
        except Exception as error:  # noqa: BLE001 - if the bytes are right, the load raises it again
            logger.debug("weights not preloaded error={}: {}", type(error).__name__, error)

    def weights(self, verified: Data) -> Mapping[str, np.ndarray]:
        """Return the tensors in ``verified``; drop what was preloaded from other bytes. Raises WeightsError."""
        preloaded, self._preloaded = self._preloaded, None
        if preloaded is None or preloaded[0] is not verified:
            return decode_weights(verified)
        _, weights, self._engine = preloaded
        return weights

    def take(self, kind: EngineKind, program_digest: str) -> Engine | None:
        """Return the engine of that program that has ``weights``, once; None if there is none."""
        if self._engine is None or (kind, program_digest) != self._first:
            return None
        engine, self._engine = self._engine, None
        return engine


@dataclass
class VersionMaterial:
    """The verified content of a version that is being loaded, and the errors of its engines so far."""

    files: VersionFiles
    manifest: Manifest
    weights_bytes: Data
    weights: Mapping[str, np.ndarray]
    verifier: ProbeVerifier
    take_spare: TakeSpare
    preloader: WeightPreloader
    refusals: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @classmethod
    def of(
        cls, files: VersionFiles, options: EngineOptions, first: Program | None, take_spare: TakeSpare, pool: BufferPool
    ) -> "VersionMaterial":
        """Read the weights and the probe; load the weights into a spare engine of the program ``first`` meanwhile."""
        manifest, preloader = files.manifest, WeightPreloader(first, take_spare)
        data = files.read_ahead(manifest.weights, preloader.preload, pool)
        probe = decode_probe(files.read(manifest.probe.file), manifest.signature)
        verifier = ProbeVerifier(manifest, probe, options.batch_size, values=options.values)
        return cls(files, manifest, data, preloader.weights(data), verifier, take_spare, preloader)

    def read(self, name: str) -> Data:
        """Return a file's verified bytes. The weights are in memory already."""
        return self.weights_bytes if name == self.manifest.weights else self.files.read(name)

    def refuse(self, engine_name: str, error: Exception) -> None:
        self.refusals.append((engine_name, str(error) or type(error).__name__))
        self.errors.append(error)

    def has_program(self, entry: ProgramEntry) -> bool:
        """Return True when the file of ``entry`` holds the program that the manifest names."""
        try:
            return program_digest(entry.kind, bytes(self.read(entry.file))) == entry.program_digest
        except (PolicyLoadError, StoreError):
            return False

    def states_program(self, entry: ProgramEntry) -> bool:
        """Return False when the manifest contradicts itself about a program. Reads a file only if its digest differs.

        The digest of most programs is the SHA-256 of their file, which is verified apart.
        """
        if entry.kind == "torchscript":
            return True
        file = self.manifest.files[entry.file]
        return file.sha256 == entry.program_digest or (file.digest_name != "sha256" and self.has_program(entry))

    def failure(self) -> Exception:
        """Return one error for all engines: transient if one of them was, since that engine may work later."""
        errors = self.errors
        if len(errors) == 1 and isinstance(errors[0], PolicyLoadError):
            return errors[0]
        said = "; ".join(f"{name}: {one_line(message)}" for name, message in self.refusals)
        kind: type[PolicyLoadError] = ProgramError
        if any(isinstance(error, TransientLoadError) for error in errors):
            kind = TransientLoadError
        elif len(kinds := {type(error) for error in errors}) == 1 and issubclass(only := kinds.pop(), PolicyLoadError):
            kind = only
        failure = kind(said or "none of its programs can be run here")
        failure.__cause__ = errors[0] if errors else None
        return failure


class EngineLoader:
    """Makes engines that reproduce a version's probe. Unknown programs run in ``sandbox`` first, if there is one."""

    def __init__(self, options: EngineOptions, sandbox: ProgramSandbox | None) -> None:
        self._options = options
        self._sandbox = sandbox
        self._names: dict[Program, str] = {}
        self._pure: set[Program] = set()

    def load(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        """Return a verified, warm engine of the program ``entry``. Raises what loading and verifying it raise."""
        if self._sandbox is not None:
            self._sandbox.verify(kind, material.files, material.read)
        return self._reload(kind, entry, material) or self._load_whole(kind, entry, material)

    def _reload(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine | None:
        """Give new weights to an engine of the same program; return None without such an engine.

        Its file is hashed (``VersionFiles.verifying_others``) but not parsed again: the program was verified under this
        digest when it was loaded.
        """
        digest = entry.program_digest
        if not material.states_program(entry):
            return None  # the manifest contradicts itself, as the load of the whole program reports
        engine = material.preloader.take(kind, digest)
        try:
            if engine is None:
                engine = material.take_spare(kind, digest)
                if engine is None:
                    return None
                engine.load_weights(material.weights)
            material.verifier.verify(engine.run)
            self._verify_purity(engine, kind, entry, material)
        except PermanentLoadError:
            return None  # loaded as a whole the program may still be right; the spare is dropped
        return engine, self._names.get((kind, digest), kind)

    def _load_whole(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        if kind == "eager" and self._options.choice != "eager":
            engine, name = self._import(entry, material)
        else:
            options, name = self._options, kind
            engine = load_program(
                kind,
                material.read,
                material.manifest,
                trust=options.trust,
                outputs=material.verifier.outputs,
                batch_size=options.batch_size,
                measure=options.measure,
            )
        material.verifier.verify(engine.run)
        self._verify_purity(engine, kind, entry, material)
        for _ in range(_WARM_UP_CALLS):
            engine.run(material.verifier.inputs)
        self._names[kind, entry.program_digest] = name
        return engine, name

    def _verify_purity(self, engine: Engine, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> None:
        """Verify a program's purity, unless the sandbox did: once, or with all weights that steer its work."""
        program = (kind, entry.program_digest)
        if program in self._pure or (self._sandbox is not None and is_sandboxed(kind)):
            return
        material.verifier.verify_purity(engine, material.weights)
        traits = check_program(entry.kind, read_program(entry, material.read), self._options.trust)
        if entry.kind == "importable" or not traits.data_dependent:
            self._pure.add(program)

    def _import(self, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        """Import the policy's class; return it scripted, else traced, else eager: the first that passes the probe."""
        definition = read_program(entry, material.read)
        import torch

        from shared.engines.eager import EagerEngine
        from shared.engines.importable import load_importable
        from shared.scripting.scripting import script_or_trace

        verifier = material.verifier
        module = load_importable(definition, material.weights, self._options.trust.modules)
        example = [torch.from_numpy(array.copy()) for array in verifier.probe_inputs]

        def check(candidate: Callable[[list["Tensor"]], list["Tensor"]]) -> float:
            def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
                with torch.no_grad():
                    found = candidate([torch.from_numpy(array.copy()) for array in inputs])
                    return [found[position].numpy().copy() for position in verifier.outputs]

            return verifier.verify(run)

        scripted, failures = script_or_trace(module, example, check)
        material.refusals.extend((report.method, report.error or "") for report in failures)
        best, name = (module, "eager") if scripted is None else (scripted.module, scripted.method)
        dtypes = output_dtypes(material.manifest)
        return EagerEngine(best, entry.program_digest, verifier.outputs, dtypes), name
