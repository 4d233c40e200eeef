"""The engines of one version: engines in the order of the engine choice, each held to the probe before it may act."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from actor.loading.engine_choice import CHALLENGERS, is_clearly_faster, is_worth_measuring, median_call_s, order_of
from actor.loading.importable_program import import_program
from actor.loading.loaded_policy import LoadedPolicy
from actor.loading.weight_preloading import TakeSpare, WeightPreloader
from actor.sandbox.program_sandbox import ProgramSandbox
from actor.verification.probe_verifier import (
    ProbeVerifier,
    check_memory,
    check_same_spaces,
    check_signature,
    is_out_of_memory,
)
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.load import PROGRAM_OF, check_support, load_program, read_program
from shared.errors import (
    PermanentLoadError,
    PolicyLoadError,
    PolicyOutputError,
    ProgramError,
    ProgramUnsupported,
    StoreError,
    StoreUnavailable,
    TransientLoadError,
    VersionNotFound,
    one_line,
)
from shared.files.buffer_pool import BufferPool, Data
from shared.policy.manifest import Manifest, ProgramEntry
from shared.policy.probe import Probe, decode_probe
from shared.policy.program_digest import program_digest
from shared.policy.signature import PolicySignature
from shared.store.policy_store import VersionFiles

_Step = tuple[EngineKind, str]
"""An engine, and the digest of the program that it runs."""

# Right after a load the first calls are slow (TorchScript profiles, ONNX Runtime sizes its arena); the probe's two
# come first.
_WARM_UP_CALLS = 3


@dataclass
class LoadResult:
    """What became of one version. ``refusals`` are (engine_name, what it said) of the engine_names above the one
    taken, in order.
    """

    policy: LoadedPolicy
    refusals: list[tuple[str, str]]

    def describe(self) -> str | None:
        """One line on the engine_name taken and what those above it said; None where the first engine_name was
        taken.
        """
        if not self.refusals:
            return None
        said = "; ".join(f"{engine_name} said: {one_line(message)}" for engine_name, message in self.refusals)
        return f"version {self.policy.version}: {self.policy.engine_name} taken; {said}"


@dataclass
class _Material:
    """What every engine_name of one version starts from, read and verified once."""

    files: VersionFiles
    manifest: Manifest
    weights_bytes: Data
    weights: Mapping[str, np.ndarray]
    probe: Probe
    verifier: ProbeVerifier
    take_spare: TakeSpare
    ahead: WeightPreloader
    refusals: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def read(self, name: str) -> Data:
        """A file's verified bytes; those of the weights are there already."""
        return self.weights_bytes if name == self.manifest.weights else self.files.read(name)

    def refuse(self, engine_name: str, error: Exception) -> None:
        self.refusals.append((engine_name, str(error) or type(error).__name__))
        self.errors.append(error)


class EngineFallback:
    """Makes opened versions into policies that may act. Belongs to one thread: the loader's.

    Engines are compared at ``batch_size`` for the choice ``auto``, unless ``measure`` is off: then the order is
    fixed, so that the same inputs give the same bits on every run. ``values``: whether the engines are to compute the
    policy's value as well. ``expected`` is a signature of the environment in use, where it is known. Programs never
    seen before go through ``trial`` first, where there is one.
    """

    def __init__(
        self,
        choice: EngineChoice,
        *,
        batch_size: int,
        trusted_modules: tuple[str, ...] = (),
        trust_native: bool = False,
        measure: bool = True,
        values: bool = False,
        expected: PolicySignature | None = None,
        trial: ProgramSandbox | None = None,
    ) -> None:
        self._trial = trial
        self._memory = BufferPool()
        self._choice = choice
        self._batch_size = batch_size
        self._trusted_modules = trusted_modules
        self._trust_native = trust_native
        self._measure = measure and choice == "auto"
        self._values = values
        self._expected = expected
        self._checked: PolicySignature | None = None
        self._faster: dict[tuple[str, ...], EngineKind] = {}
        self._engine_names: dict[_Step, str] = {}
        self._unloadable: dict[_Step, str] = {}
        self._passed_over: set[_Step] = set()
        self._has_told_of_missing = False

    def prepare(self) -> None:
        """Start what takes a while to start, before there is anything to load; never raises for the lack of it."""
        if self._trial is not None:
            with contextlib.suppress(TransientLoadError):  # where it is needed it is started again, and that is said
                self._trial.prepare(order_of(self._choice)[0])

    def cancel(self) -> None:
        """Have a trial that is under way end at once. Any thread may call this."""
        if self._trial is not None:
            self._trial.cancel()

    def close(self) -> None:
        """End what ``prepare`` started. Idempotent."""
        if self._trial is not None:
            self._trial.close()

    def load(self, files: VersionFiles, take_spare: TakeSpare) -> LoadResult:
        """Verify and load. Engines to be written to anew come from ``take_spare``.

        Raises PermanentLoadError or TransientLoadError (what the engine_names said, in its message), VersionNotFound or
        StoreUnavailable.
        """
        manifest = files.manifest
        self._check_signature(manifest.signature)
        check_memory(manifest)
        ahead = WeightPreloader(self._first_step(manifest), take_spare)
        weights = files.read_ahead(manifest.weights, ahead.bring, self._memory)
        probe = decode_probe(files.read(manifest.probe.file), manifest.signature)
        verifier = ProbeVerifier(manifest, probe, self._batch_size, values=self._values)
        material = _Material(files, manifest, weights, ahead.weights(weights), probe, verifier, take_spare, ahead)
        self._note_missing(manifest, material)
        for kind, entry in self._steps(manifest):
            loaded = self._try_engine(kind, entry, material)
            if loaded is not None:
                engine, engine_name = self._faster_of(kind, loaded, material)
                self._expected = self._expected or manifest.signature
                policy = LoadedPolicy(
                    manifest.version, manifest.digest, manifest.signature, engine, engine_name, files.manifest_bytes
                )
                return LoadResult(policy, material.refusals)
        raise _failure(material)

    def _check_signature(self, signature: PolicySignature) -> None:
        """Raise ManifestError unless it makes sense and is of the environment in use; most are the one before."""
        if signature == self._checked:
            return
        check_signature(signature)
        if self._expected is not None:
            check_same_spaces(self._expected, signature)
            self._checked = signature

    def _first_step(self, manifest: Manifest) -> _Step | None:
        return next(((kind, entry.program_digest) for kind, entry in self._steps(manifest)), None)

    def _note_missing(self, manifest: Manifest, material: _Material) -> None:
        """Say that what was asked for is not there: once, since later versions will have none either."""
        choice = self._choice
        if choice == "auto" or self._has_told_of_missing or manifest.program(PROGRAM_OF[choice]) is not None:
            return
        self._has_told_of_missing = True
        material.refusals.append((choice, f"the version has no {PROGRAM_OF[choice]} program"))

    def _steps(self, manifest: Manifest) -> Iterator[tuple[EngineKind, ProgramEntry]]:
        """The engines to try, each with its program."""
        order = list(order_of(self._choice))
        faster = self._faster.get(_programs_key(manifest))
        if faster is not None:
            order.remove(faster)
            order.insert(0, faster)
        for kind in order:
            entry = manifest.program(PROGRAM_OF[kind])
            if entry is not None and (kind, entry.program_digest) not in self._passed_over:
                yield kind, entry

    def _try_engine(self, kind: EngineKind, entry: ProgramEntry, material: _Material) -> tuple[Engine, str] | None:
        """A verified engine and its engine_name, or None with the reason among the refusals."""
        step = (kind, entry.program_digest)
        if (said := self._unloadable.get(step)) is not None:
            material.refuse(kind, ProgramError(said))
            return None
        try:
            return self._reload(kind, entry, material) or self._load(kind, entry, material)
        except (VersionNotFound, StoreUnavailable):
            raise
        except ProgramUnsupported as error:
            if kind == self._choice:
                self._note_failure(step, entry, error, material)
            else:
                self._passed_over.add(step)  # the program is as good as any; it is just not for this engine
        except Exception as error:  # noqa: BLE001 - whatever one engine_name raises, the next may do
            self._note_failure(step, entry, error, material)
        return None

    def _note_failure(self, step: _Step, entry: ProgramEntry, error: Exception, material: _Material) -> None:
        """What a engine_name said of a version; of a program, for good."""
        kind = step[0]
        if is_out_of_memory(error):
            material.refuse(kind, TransientLoadError(f"not enough memory: {type(error).__name__}: {error}"))
            return
        if isinstance(error, ProgramError) and _is_what_it_says(entry, material):
            self._unloadable[step] = str(error)  # whatever its weights
        elif kind == "compile" and isinstance(error, PolicyOutputError):
            self._unloadable[step] = str(error)  # the compiler would say it again, seconds later
        material.refuse(kind, error)

    def _reload(self, kind: EngineKind, entry: ProgramEntry, material: _Material) -> tuple[Engine, str] | None:
        """The fast path: the program is here already, and only weights are new. None where it is not.

        The program's file is not read again. That is sound: what will run was verified when it came, as the program of
        this very digest; the weights were verified just now; and together they have to reproduce this version's probe.
        """
        digest = entry.program_digest
        engine = material.ahead.take(kind, digest)
        try:
            if engine is None:
                engine = material.take_spare(kind, digest)
                if engine is None:
                    return None
                engine.load_weights(material.weights)
            material.verifier.check(engine.run)
        except PermanentLoadError:
            return None  # the program may still be right when it is loaded as a whole; the spare is let go
        return engine, self._engine_names.get((kind, digest), kind)

    def _load(self, kind: EngineKind, entry: ProgramEntry, material: _Material) -> tuple[Engine, str]:
        """A program that is not here yet: read, verified, made, held to the probe and warmed up."""
        if kind == "eager" and self._choice != "eager":
            engine, engine_name = self._import(entry, material)
        else:
            self._try_first(kind, entry, material)
            engine, engine_name = self._load_program(kind, material), kind
        material.verifier.check(engine.run)
        for _ in range(_WARM_UP_CALLS):
            engine.run(material.verifier.inputs)
        self._engine_names[kind, entry.program_digest] = engine_name
        return engine, engine_name

    def _try_first(self, kind: EngineKind, entry: ProgramEntry, material: _Material) -> None:
        """What could take this process with it does so in another."""
        if self._trial is None or self._trial.has_passed(kind, entry.program_digest):
            return
        if kind == "aot" and not self._trust_native:
            return  # it is refused in a moment
        check_support(kind, entry, material.read)  # a trial of what this engine does not run would tell no more
        names = (entry.file, material.manifest.weights, material.manifest.probe.file)
        files = {name: bytes(material.read(name)) for name in names}
        self._trial.require(kind, entry.program_digest, material.files.manifest_bytes, files)

    def _load_program(self, kind: EngineKind, material: _Material) -> Engine:
        return load_program(
            kind,
            material.read,
            material.manifest,
            trust_native=self._trust_native,
            trusted_modules=self._trusted_modules,
            outputs=material.verifier.outputs,
            batch_size=self._batch_size,
        )

    def _import(self, entry: ProgramEntry, material: _Material) -> tuple[Engine, str]:
        """Scripted, else traced, else as it is: the engines within the engines, for whoever asked for no one
        engine_name.
        """
        definition = read_program(entry, material.read)
        imported = import_program(
            definition, material.weights, material.verifier, entry.program_digest, self._trusted_modules
        )
        material.refusals.extend(imported.refusals)
        return imported.engine, imported.engine_name

    def _faster_of(self, kind: EngineKind, loaded: tuple[Engine, str], material: _Material) -> tuple[Engine, str]:
        """What ``auto`` takes: ``loaded``, or its challenger where that was measured to be clearly faster here."""
        key = _programs_key(material.manifest)
        challenger = CHALLENGERS.get(kind)
        if not self._measure or key in self._faster or challenger is None:
            return loaded
        rival = material.manifest.program(PROGRAM_OF[challenger])
        self._faster[key] = kind
        (loaded_s,) = median_call_s([loaded[0]], material.verifier.inputs)
        if rival is None or not is_worth_measuring(challenger, loaded_s):
            return loaded
        refusals = list(material.refusals)
        other = self._try_engine(challenger, rival, material)
        material.refusals[:] = refusals  # a rival that does not load is no fault of the version
        if other is None:
            return loaded
        loaded_s, other_s = median_call_s([loaded[0], other[0]], material.verifier.inputs)
        if not is_clearly_faster(other_s, loaded_s):
            return loaded
        self._faster[key] = challenger
        return other


def _is_what_it_says(entry: ProgramEntry, material: _Material) -> bool:
    """Whether the file holds the program of that digest. If not, nothing was learned about that program."""
    try:
        return program_digest(entry.kind, bytes(material.read(entry.file))) == entry.program_digest
    except (PolicyLoadError, StoreError):
        return False


def _programs_key(manifest: Manifest) -> tuple[str, ...]:
    return tuple(program.program_digest for program in manifest.programs)


def _failure(material: _Material) -> Exception:
    """One error for all engine_names: their own where they agree; transient where any was, since that engine_name
    may do yet.
    """
    errors = material.errors
    if len(errors) == 1 and isinstance(errors[0], PolicyLoadError):
        return errors[0]
    said = "; ".join(f"{engine_name}: {one_line(message)}" for engine_name, message in material.refusals)
    kinds = {type(error) for error in errors}
    kind: type[PolicyLoadError] = ProgramError
    if any(issubclass(k, TransientLoadError) for k in kinds):
        kind = TransientLoadError
    elif len(kinds) == 1 and issubclass(only := kinds.pop(), PolicyLoadError):
        kind = only
    failure = kind(said or "none of its programs can be run here")
    failure.__cause__ = errors[0] if errors else None
    return failure
