"""Makes one engine of a version: a spare engine with new weights, or the program loaded as a whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actor.loading.version_material import VersionMaterial
from actor.sandbox.program_sandbox import ProgramSandbox
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.load import check_support, load_program, read_program
from shared.errors import PermanentLoadError
from shared.policy.manifest import ProgramEntry
from shared.policy.signature import PolicySignature

if TYPE_CHECKING:
    from torch import Tensor

NamedEngine = tuple[Engine, str]
"""A verified engine and its name: its kind, or ``script``, ``trace`` or ``eager`` for an importable policy."""

# The first calls after a load are slow: TorchScript profiles, ONNX Runtime sizes its arena. The probe makes two calls.
_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class EngineOptions:
    """How an actor chooses and makes engines.

    Args:
        choice: the engine to try first, or ``auto``.
        batch_size: rows of each call.
        trusted_modules: prefixes of the modules that importable policies may come from.
        trust_native: True to allow native code from the store.
        measure: True to let ``auto`` compare engines by time; False to keep a fixed order, so that equal inputs give
            equal bits in every run.
        values: True when the engines compute the policy's value.
        signature: a signature for the environment in use; versions for another environment are refused.
    """

    choice: EngineChoice
    batch_size: int
    trusted_modules: tuple[str, ...] = ()
    trust_native: bool = False
    measure: bool = True
    values: bool = False
    signature: PolicySignature | None = None


class EngineLoader:
    """Makes engines that reproduce a version's probe. Unknown programs run in ``sandbox`` first, if there is one."""

    def __init__(self, options: EngineOptions, sandbox: ProgramSandbox | None) -> None:
        self._options = options
        self._sandbox = sandbox
        self._names: dict[tuple[EngineKind, str], str] = {}

    def load(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        """Return a verified, warm engine of the program ``entry``. Raises what loading and verifying it raise."""
        return self._reload(kind, entry, material) or self._load_whole(kind, entry, material)

    def _reload(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine | None:
        """Give new weights to an engine of the same program; return None without such an engine.

        The program's file is not read again. That is sound: the engine's program was verified under this digest when it
        was loaded, the weights were verified just now, and together they have to reproduce this version's probe.
        """
        digest = entry.program_digest
        engine = material.preloader.take(kind, digest)
        try:
            if engine is None:
                engine = material.take_spare(kind, digest)
                if engine is None:
                    return None
                engine.load_weights(material.weights)
            material.verifier.verify(engine.run)
        except PermanentLoadError:
            return None  # loaded as a whole the program may still be right; the spare is dropped
        return engine, self._names.get((kind, digest), kind)

    def _load_whole(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        if kind == "eager" and self._options.choice != "eager":
            engine, name = self._import(entry, material)
        else:
            self._run_in_sandbox(kind, entry, material)
            engine, name = self._load_program(kind, material), kind
        material.verifier.verify(engine.run)
        for _ in range(_WARM_UP_CALLS):
            engine.run(material.verifier.inputs)
        self._names[kind, entry.program_digest] = name
        return engine, name

    def _run_in_sandbox(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> None:
        if self._sandbox is None or self._sandbox.has_passed(kind, entry.program_digest):
            return
        if kind == "aot" and not self._options.trust_native:
            return  # the load that follows refuses it
        check_support(kind, entry, material.read)  # costs less than a sandbox that can only say the same
        names = (entry.file, material.manifest.weights, material.manifest.probe.file)
        files = {name: bytes(material.read(name)) for name in names}
        self._sandbox.verify(kind, entry.program_digest, material.files.manifest_bytes, files)

    def _load_program(self, kind: EngineKind, material: VersionMaterial) -> Engine:
        return load_program(
            kind,
            material.read,
            material.manifest,
            trust_native=self._options.trust_native,
            trusted_modules=self._options.trusted_modules,
            outputs=material.verifier.outputs,
            batch_size=self._options.batch_size,
        )

    def _import(self, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine:
        """Import the policy's class; return it scripted, else traced, else eager: the first that passes the probe."""
        definition = read_program(entry, material.read)
        import torch

        from shared.engines.eager import EagerEngine
        from shared.engines.importable import load_importable
        from shared.scripting.scripting import try_methods

        verifier = material.verifier
        module = load_importable(definition, material.weights, self._options.trusted_modules)
        example = [torch.from_numpy(array.copy()) for array in verifier.probe_inputs]

        def check(candidate: Callable[[list["Tensor"]], list["Tensor"]]) -> float:
            def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
                with torch.no_grad():
                    found = candidate([torch.from_numpy(array.copy()) for array in inputs])
                    return [found[position].numpy().copy() for position in verifier.outputs]

            return verifier.verify(run)

        scripted, failures = try_methods(module, example, check)
        material.refusals.extend((report.method, report.error or "") for report in failures)
        if scripted is None:
            return EagerEngine(module, entry.program_digest, verifier.outputs), "eager"
        return EagerEngine(scripted.module, entry.program_digest, verifier.outputs), scripted.method
