"""The engines of a version in the order of the user's choice; the first that reproduces the probe is used."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from actor.loading.engine_choice import challengers, faster_challenger, order_of
from actor.loading.engine_loader import EngineLoader, EngineOptions, NamedEngine, Program, TakeSpare, VersionMaterial
from actor.loading.loaded_policy import LoadedPolicy, LoadResult
from actor.sandbox.program_sandbox import ProgramSandbox
from actor.verification.version_checks import check_memory, check_same_spaces, check_signature, is_out_of_memory
from shared.engines.engine import EngineKind
from shared.engines.load import PROGRAM_OF
from shared.errors import PolicyOutputError, ProgramError, ProgramUnsupported, StoreError, TransientLoadError
from shared.files.buffer_pool import BufferPool
from shared.policy.manifest import Manifest, ProgramEntry
from shared.policy.signature import PolicySignature
from shared.store.policy_store import VersionFiles


class EngineFallback:
    """Turns opened versions into policies that may act; remembers results by program digest. For the loader thread."""

    def __init__(self, options: EngineOptions, sandbox: ProgramSandbox | None = None) -> None:
        self._options = options
        self._choice = options.choice
        self._sandbox = sandbox
        self._loader = EngineLoader(options, sandbox)
        self._memory = BufferPool()
        self._measure = options.measure and options.choice == "auto"
        self._expected = options.signature
        self._checked: PolicySignature | None = None
        self._faster: dict[tuple[str, ...], EngineKind] = {}
        self._unloadable: dict[Program, str] = {}
        self._unsupported: set[Program] = set()
        self._has_reported_missing = False

    def prepare(self) -> None:
        """Start the sandbox ahead of the first version. An error is reported by the load that needs the sandbox."""
        if self._sandbox is not None:
            with contextlib.suppress(TransientLoadError):
                self._sandbox.prepare(order_of(self._choice)[0])

    def cancel(self) -> None:
        """End a sandbox run in progress. Any thread may call this."""
        if self._sandbox is not None:
            self._sandbox.cancel()

    def close(self) -> None:
        """End the sandbox. Idempotent."""
        if self._sandbox is not None:
            self._sandbox.close()

    def load(self, files: VersionFiles, take_spare: TakeSpare) -> LoadResult:
        """Verify and load a version. Raise VersionNotFound, StoreUnavailable, or PolicyLoadError with all errors."""
        began_s, manifest = time.perf_counter(), files.manifest
        self._check_signature(manifest.signature)
        check_memory(manifest)
        first = next(((kind, entry.program_digest) for kind, entry in self._steps(manifest)), None)
        material = VersionMaterial.of(files, self._options, first, take_spare, self._memory)
        self._report_missing(manifest, material)
        with files.verifying_others():
            engine, name = self._first_engine(manifest, material)
        self._expected = self._expected or manifest.signature
        load_ms = 1e3 * (time.perf_counter() - began_s)
        policy = LoadedPolicy(
            manifest.version, manifest.digest, manifest.signature, engine, name, files.manifest_bytes, load_ms
        )
        return LoadResult(policy, material.refusals)

    def _first_engine(self, manifest: Manifest, material: VersionMaterial) -> NamedEngine:
        """Return the first engine that works, or its faster challenger. Raises PolicyLoadError with all errors."""
        for kind, entry in self._steps(manifest):
            loaded = self._try_engine(kind, entry, material)
            if loaded is not None:
                return self._faster_of(kind, loaded, material)
        raise material.failure()

    def _check_signature(self, signature: PolicySignature) -> None:
        """Raise ManifestError for an invalid signature or another environment; skip the one that passed last."""
        if signature == self._checked:
            return
        check_signature(signature)
        if self._expected is not None:
            check_same_spaces(self._expected, signature)
            self._checked = signature

    def _report_missing(self, manifest: Manifest, material: VersionMaterial) -> None:
        """Report once that versions have no program for the chosen engine: later versions will have none either."""
        choice = self._choice
        if choice != "auto" and not self._has_reported_missing and manifest.program(PROGRAM_OF[choice]) is None:
            self._has_reported_missing = True
            material.refusals.append((choice, f"the version has no {PROGRAM_OF[choice]} program"))

    def _steps(self, manifest: Manifest) -> Iterator[tuple[EngineKind, ProgramEntry]]:
        order = list(order_of(self._choice))
        faster = self._faster.get(_programs_key(manifest))
        if faster is not None:
            order.remove(faster)
            order.insert(0, faster)
        for kind in order:
            entry = manifest.program(PROGRAM_OF[kind])
            if entry is not None and (kind, entry.program_digest) not in self._unsupported:
                yield kind, entry

    def _try_engine(self, kind: EngineKind, entry: ProgramEntry, material: VersionMaterial) -> NamedEngine | None:
        """Return a verified engine, or None after recording the reason as a refusal."""
        step = (kind, entry.program_digest)
        if (reason := self._unloadable.get(step)) is not None:
            material.refuse(kind, ProgramError(reason))
            return None
        try:
            return self._loader.load(kind, entry, material)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - the next engine may work, whatever this one raises
            if isinstance(error, ProgramUnsupported) and kind != self._choice:
                self._unsupported.add(step)  # the program may be sound, so this is no refusal
            else:
                self._note_failure(step, entry, error, material)
        return None

    def _note_failure(self, step: Program, entry: ProgramEntry, error: Exception, material: VersionMaterial) -> None:
        """Record an engine's error; remember it when it holds for the program with any weights.

        Other errors, a crash in the sandbox among them, may be those of this content alone.
        """
        is_of_compiler = step[0] == "compile" and isinstance(error, PolicyOutputError)
        if is_out_of_memory(error):
            error = TransientLoadError(f"not enough memory: {type(error).__name__}: {error}")
        elif is_of_compiler or (isinstance(error, ProgramUnsupported) and material.has_program(entry)):
            self._unloadable[step] = str(error)
        material.refuse(step[0], error)

    def _faster_of(self, kind: EngineKind, loaded: NamedEngine, material: VersionMaterial) -> NamedEngine:
        """Return ``loaded``, or for ``auto`` a challenger that is measured to be clearly faster here."""
        key = _programs_key(material.manifest)
        if not self._measure or key in self._faster:
            return loaded
        self._faster[key] = kind
        refusals = list(material.refusals)
        for challenger, entry in challengers(kind, material.manifest, self._options.trust):
            load = partial(self._try_engine, challenger, entry, material)
            other = faster_challenger(loaded[0], challenger, material.verifier.inputs, load)
            if other is not None:
                loaded, self._faster[key] = other, challenger
        material.refusals[:] = refusals  # a challenger that fails to load says nothing against the version
        return loaded


def _programs_key(manifest: Manifest) -> tuple[str, ...]:
    return tuple(program.program_digest for program in manifest.programs)
