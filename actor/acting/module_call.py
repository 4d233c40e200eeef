"""Exported modules, called with the same nested arguments as the original module."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from loguru import logger

from actor.acting.call_form import CallForm
from actor.loading.engine_choice import FIXED_ORDER, challengers, faster_challenger
from actor.sandbox.cache_directory import user_cache
from actor.sandbox.program_sandbox import DEFAULT_LIMITS, ProgramSandbox, SandboxCache, SandboxLimits
from actor.verification.probe_verifier import ModuleVerifier
from shared.engines.engine import NATIVE_ENGINES, Engine, EngineChoice, EngineKind
from shared.engines.load import PROGRAM_OF, load_program
from shared.errors import (
    ConfigurationError,
    PolicyLoadError,
    PolicyOutputError,
    ProgramError,
    ProgramUnsupported,
    SignatureMismatch,
    one_line,
)
from shared.operators.program_trust import ProgramTrust, is_trusted_module
from shared.policy.manifest import Manifest
from shared.policy.nested_values import DictNode, RecordNode, SequenceNode, Structure, TensorNode, flatten, unflatten
from shared.policy.signature import ArgumentSpec, ModuleSignature
from shared.policy.signing import PublicKey, public_keys_of
from shared.store.authenticity import Authenticity
from shared.store.policy_store import VersionFiles, open_version_directory

_MOST_SHAPES = 64
_Form = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
"""Shape and dtype of each tensor."""


class LoadedModule:
    """A callable with the arguments and results of the exported module in eval mode.

    Results are tensors if any argument is one, else numpy arrays; they are on the CPU and belong to the caller. One
    thread at a time may call it. ``refusals`` are the engines that were tried before, with their errors.
    """

    def __init__(
        self,
        manifest: Manifest,
        signature: ModuleSignature,
        engine: Engine,
        classes: dict[str, type[Any]],
        refusals: tuple[tuple[str, str], ...],
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self.refusals = refusals
        self._signature = signature
        self._classes = classes
        self._form = CallForm(signature)
        self._count, self._keywords = self._form.count, self._form.keywords
        self._seen: dict[_Form, _SeenInputs] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Raises:
            SignatureMismatch: the arguments are others than those of the module.
            PolicyOutputError: the engine fails, or the outputs are others than the module's.
        """
        if len(args) != self._count or ((kwargs or self._keywords) and kwargs.keys() != self._keywords):
            args, kwargs = self._form.arranged(args, kwargs)
        leaves = flatten(self._signature.arguments, {"args": args, "kwargs": kwargs}, "the arguments")
        arrays = [_array(leaf) for leaf in leaves]
        key = tuple((array.shape, array.dtype) for array in arrays)
        seen = self._seen.get(key) or self._check_inputs(key, arrays)
        outputs: Sequence[Any] = self.engine.run(arrays)
        found = tuple((output.shape, output.dtype) for output in outputs)
        if found not in seen.outputs:
            self._check_outputs(seen, found, outputs)
        if any(not isinstance(leaf, np.ndarray) for leaf in leaves):
            outputs = _tensors(outputs)
        return unflatten(self._signature.result, outputs, self._classes)

    def _check_inputs(self, key: _Form, arrays: Sequence[np.ndarray]) -> "_SeenInputs":
        """Remember inputs of another form than before. Raises SignatureMismatch."""
        seen = _SeenInputs(self._signature.check_inputs(arrays))
        if len(self._seen) >= _MOST_SHAPES:
            self._seen.clear()
        self._seen[key] = seen
        return seen

    def _check_outputs(self, seen: "_SeenInputs", found: _Form, outputs: Sequence[np.ndarray]) -> None:
        """Remember outputs of another form than before for these inputs. Raises PolicyOutputError."""
        try:
            self._signature.check_outputs(outputs, seen.sizes)
        except SignatureMismatch as error:
            raise PolicyOutputError(f"the program does not return what its signature promises: {error}") from error
        if len(seen.outputs) >= _MOST_SHAPES:
            seen.outputs.clear()
        seen.outputs.add(found)


@dataclasses.dataclass(frozen=True)
class _SeenInputs:
    """Inputs that fit: their named sizes, and the outputs that fit them."""

    sizes: Mapping[str, int]
    outputs: set[_Form] = dataclasses.field(default_factory=set)


class Permissions(TypedDict, total=False):
    """Permissions of ``load_policy`` beyond pure and deterministic programs.

    Attributes:
        trusted_modules: prefixes of modules that may be imported. Named tuples and dataclasses from them keep their own
            class; others become an equivalent class.
        trust_native: True to allow native code and ExecuTorch programs.
        allowed_operators: names of operators to allow.
        trust_programs: True to allow programs with any operators.
    """

    trusted_modules: tuple[str, ...]
    trust_native: bool
    allowed_operators: tuple[str, ...]
    trust_programs: bool


def load_policy(
    directory: str | Path,
    engine: EngineChoice = "auto",
    *,
    public_key: PublicKey | str | Path | Sequence[PublicKey | str | Path] = (),
    sandbox: SandboxLimits | None = DEFAULT_LIMITS,
    **permissions: Unpack[Permissions],
) -> LoadedModule:
    """Load one version from its directory, verified against its probe and warm.

    A version made by ``export_module`` is called as the module itself. A policy takes one list of tensors, ``inputs``,
    and returns one, ``outputs``, in the order of its signature.

    Args:
        engine: one engine, or ``auto`` for the first that works of LLVM, ONNX Runtime, TorchScript and, with
            permission, ExecuTorch, native code and an importable class. ``auto`` measures calls of the first of these
            for the probe's inputs, as an agent does, and takes the next instead if that is clearly faster here.
        public_key: keys (files, or ``ed25519:…``) of which one must have signed the version; none to allow any version.
        sandbox: limits of the process in which unknown programs run first. Programs that passed are recorded in this
            user's cache. None: programs are loaded directly.
        **permissions: See ``Permissions``.

    Raises:
        VersionNotFound, StoreUnavailable: the directory has no version, or cannot be read.
        ConfigurationError: a key is invalid, or the engine is unknown.
        PolicyLoadError: the version does not verify, or no engine works.
    """
    if engine != "auto" and engine not in PROGRAM_OF:
        raise ConfigurationError(
            f"pass one of auto, {', '.join(PROGRAM_OF)} as engine: found {one_line(repr(engine), 80)}"
        )
    files = open_version_directory(Path(directory))
    Authenticity(public_keys_of(public_key)).check(files)
    trust = ProgramTrust(
        native=permissions.get("trust_native", False),
        modules=permissions.get("trusted_modules", ()),
        allowed_operators=permissions.get("allowed_operators", ()),
        programs=permissions.get("trust_programs", False),
    )
    with files.verifying_others():
        if sandbox is None:
            return _load(files, engine, trust, None)
        cache = SandboxCache.below(user_cache())
        with closing(ProgramSandbox(sandbox, batch_size=1, cache=cache, trust=trust)) as first:
            return _load(files, engine, trust, first)


def _load(files: VersionFiles, engine: EngineChoice, trust: ProgramTrust, first: ProgramSandbox | None) -> LoadedModule:
    """Return the version on the first engine that works; unknown programs run in ``first``, if there is one."""
    manifest = files.manifest
    signature = manifest.module if isinstance(manifest.module, ModuleSignature) else _as_module(manifest)
    classes = _trusted_classes((signature.arguments, signature.result), trust.modules)
    errors: dict[str, Exception] = {}
    verifier = ModuleVerifier(manifest, files.read(manifest.probe.file), signature)
    allowed = dict.fromkeys(NATIVE_ENGINES, trust.native) | {"eager": bool(trust.modules)}
    order = [kind for kind in FIXED_ORDER if allowed.get(kind, True) and manifest.program(PROGRAM_OF[kind]) is not None]

    def load(kind: EngineKind) -> Engine:
        if first is not None:
            first.verify_now(kind, files)
        loaded = load_program(kind, files.read, manifest, trust=trust)
        verifier.verify(loaded.run)
        return loaded

    for kind in order if engine == "auto" else [engine]:
        try:
            loaded = load(kind)
        except PolicyLoadError as error:
            if engine == "auto" and isinstance(error, ProgramUnsupported):
                continue  # the program may be sound, so this is no refusal
            errors[kind] = error
        else:
            for challenger, _ in challengers(kind, manifest, trust) if engine == "auto" else ():
                loaded = _faster_of(loaded, challenger, verifier, load)
            refusals = tuple((tried, str(error)) for tried, error in errors.items())
            return LoadedModule(manifest, signature, loaded, classes, refusals)
    cause = next(iter(errors.values()), None)
    if cause is not None and len(errors) == 1:
        raise cause
    said = "; ".join(f"{kind}: {error}" for kind, error in errors.items())
    raise ProgramError(f"{files.location}: none of its programs can be run: {said}") from cause


def _faster_of(
    loaded: Engine, challenger: EngineKind, verifier: ModuleVerifier, load: Callable[[EngineKind], Engine]
) -> Engine:
    """Return ``loaded``, or the challenger if it works and is measured to be clearly faster."""

    def load_challenger() -> tuple[Engine, str] | None:
        try:
            return load(challenger), challenger
        except PolicyLoadError as error:
            logger.debug("faster engine not loaded engine={} error={}: {}", challenger, type(error).__name__, error)
            return None

    other = faster_challenger(loaded, challenger, verifier.inputs, load_challenger)
    return loaded if other is None else other[0]


def _as_module(manifest: Manifest) -> ModuleSignature:
    """Return a policy's signature as that of a module: one list of tensors in, one out, all batch first."""
    inputs, outputs = (
        tuple(ArgumentSpec(spec.name, spec.dtype, (None, *spec.shape)) for spec in specs)
        for specs in (manifest.signature.inputs, manifest.signature.outputs)
    )
    taken, given = (SequenceNode("list", tuple(TensorNode() for _ in specs)) for specs in (inputs, outputs))
    arguments = DictNode(("args", "kwargs"), (SequenceNode("tuple", (taken,)), DictNode((), ())))
    return ModuleSignature(inputs, outputs, arguments, given)


def _array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return np.ascontiguousarray(leaf) if leaf.ndim else leaf
    try:
        array: np.ndarray = leaf.detach().cpu().contiguous().numpy()
    except (RuntimeError, TypeError):
        return _other_array(leaf)
    return array


def _other_array(leaf: Any) -> np.ndarray:
    """Return a tensor of bfloat16, which numpy has not. Raises SignatureMismatch for others that are no arrays."""
    from shared.engines.torch_arrays import array_of

    try:
        return array_of(leaf.detach().cpu().contiguous())
    except (RuntimeError, TypeError) as error:  # sparse, quantized, without memory (meta)
        raise SignatureMismatch(
            f"pass dense tensors: one of {leaf.dtype} is no array: {one_line(error, 200)}"
        ) from error


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    torch = sys.modules["torch"]  # an argument is a tensor
    try:
        return [torch.from_numpy(array) for array in arrays]
    except TypeError:  # bfloat16
        from shared.engines.torch_arrays import tensor_of

        return [tensor_of(array) for array in arrays]


def _trusted_classes(structures: Iterable[Structure], trusted_prefixes: Sequence[str]) -> dict[str, type[Any]]:
    """Return the classes of all records in trusted modules, by their paths.

    An equivalent class replaces each that is left out.
    """
    classes = {}
    for record in (record for structure in structures for record in _records(structure)):
        module, _, name = record.class_path.partition(":")
        if is_trusted_module(module, trusted_prefixes):
            try:
                found = attrgetter(name)(importlib.import_module(module))
            except Exception as error:  # noqa: BLE001 - importing runs the module's own code
                logger.warning(
                    "class not imported, an equivalent one is used class={} error={}: {}",
                    record.class_path,
                    type(error).__name__,
                    one_line(error),
                )
                continue
            if _is(found, record):
                classes[record.class_path] = found
    return classes


def _is(found: Any, record: RecordNode) -> bool:
    """Return True when ``found`` is a class with the path, kind and fields of ``record``."""
    if not isinstance(found, type) or f"{found.__module__}:{found.__qualname__}" != record.class_path:
        return False
    if record.kind == "named_tuple":
        return issubclass(found, tuple) and getattr(found, "_fields", None) == record.fields
    return dataclasses.is_dataclass(found) and tuple(f.name for f in dataclasses.fields(found)) == record.fields


def _records(structure: Structure) -> Iterator[RecordNode]:
    if isinstance(structure, RecordNode):
        yield structure
    if isinstance(structure, RecordNode | SequenceNode | DictNode):
        for item in structure.items:
            yield from _records(item)
