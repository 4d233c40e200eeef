"""A module that was exported as it is, called with the same nested arguments as the module was."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actor.acting.record_classes import trusted_classes
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.load import PROGRAM_OF, load_program
from shared.errors import PolicyLoadError, PolicyOutputError, ProgramError, ProgramUnsupported
from shared.policy.manifest import Manifest
from shared.policy.module_probe import compare_outputs, decode_module_probe
from shared.policy.module_signature import ArgumentSpec, ModuleSignature
from shared.policy.probe import decode_probe
from shared.policy.signing import PublicKey, public_keys_of
from shared.policy.structure import DictNode, SequenceNode, TensorNode, flatten, unflatten
from shared.store.authenticity import Authenticity
from shared.store.policy_store import VersionFiles, open_version_directory

_MOST_SHAPES = 64
_WARM_UP_CALLS = 3
_FASTEST_FIRST: tuple[EngineKind, ...] = ("llvm", "onnx", "torchscript", "aot", "eager")


class LoadedModule:
    """Call it as the module was called, in eval mode: same nesting in, same nesting out.

    Results are tensors where any argument is one, else numpy arrays, on the CPU and the caller's own. Every tensor is
    checked before the program sees it; shapes that were seen before cost a look into a table. Not for two threads at a
    time. ``engine.kind`` says what runs it, ``refusals`` what the engines before it said.
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
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises SignatureMismatch for arguments unlike those of the export, PolicyOutputError where it fails."""
        leaves = flatten(self._signature.arguments, {"args": args, "kwargs": kwargs}, "the arguments")
        arrays = [_array(leaf) for leaf in leaves]
        key = tuple((array.shape, array.dtype) for array in arrays)
        if key not in self._seen:
            self._signature.check_inputs(arrays)
            if len(self._seen) >= _MOST_SHAPES:
                self._seen.clear()
            self._seen.add(key)
        outputs: Sequence[Any] = self.engine.run(arrays)
        if any(not isinstance(leaf, np.ndarray) for leaf in leaves):
            torch = sys.modules["torch"]  # a tensor came in
            outputs = [torch.from_numpy(output) for output in outputs]
        return unflatten(self._signature.result, outputs, self._classes)


def load_policy(
    directory: str | Path,
    engine: EngineChoice = "auto",
    *,
    trusted_modules: tuple[str, ...] = (),
    trust_native: bool = False,
    public_key: PublicKey | str | Path | Sequence[PublicKey | str | Path] = (),
) -> LoadedModule:
    """Load one version by its directory: verified, held to its probe, warm.

    What ``learner.export.module_export.export_module`` made is called as the module itself; a policy of a store
    with one
    list of tensors, ``inputs``, and returns one, ``outputs``, in the order of its signature. ``engine`` names one
    engine; ``auto`` takes the first that works of LLVM, ONNX Runtime, TorchScript and, where they are allowed, a
    package of native code and an importable class. Named tuples and dataclasses are of their own class where its module
    is under one of ``trusted_modules`` (which imports it), else of an equivalent class. With a ``public_key`` (its
    file, or ``ed25519:…``), or several, the version must be signed with one of them.
    Raises VersionNotFound, StoreUnavailable, ConfigurationError for a key, and PolicyLoadError's kinds.
    """
    files = open_version_directory(Path(directory))
    Authenticity(public_keys_of(public_key)).check(files)
    manifest = files.manifest
    signature = manifest.module if isinstance(manifest.module, ModuleSignature) else _as_module(manifest)
    classes = trusted_classes((signature.arguments, signature.result), trusted_modules)
    refusals: list[tuple[str, str]] = []
    errors: list[Exception] = []
    verifier = ModuleVerifier(files, signature)
    for kind in _order(engine, manifest, trust_native, trusted_modules):
        try:
            loaded = load_program(
                kind, files.read, manifest, trust_native=trust_native, trusted_modules=trusted_modules
            )
            verifier.verify(loaded)
        except PolicyLoadError as error:
            if engine == "auto" and isinstance(error, ProgramUnsupported):
                continue  # the program is as good as any; it is just not for this engine
            refusals.append((kind, str(error)))
            errors.append(error)
        else:
            return LoadedModule(manifest, signature, loaded, classes, tuple(refusals))
    if len(errors) == 1:
        raise errors[0]
    said = "; ".join(f"{kind}: {message}" for kind, message in refusals)
    raise ProgramError(f"{files.location}: none of its programs can be run: {said}") from (
        errors[0] if errors else None
    )


def _order(
    engine: EngineChoice, manifest: Manifest, trust_native: bool, trusted_modules: tuple[str, ...]
) -> list[EngineKind]:
    if engine != "auto":
        return [engine]
    allowed = {"aot": trust_native, "eager": bool(trusted_modules)}
    return [
        kind for kind in _FASTEST_FIRST if allowed.get(kind, True) and manifest.program(PROGRAM_OF[kind]) is not None
    ]


class ModuleVerifier:
    """The probe, which every engine answers before it is used."""

    def __init__(self, files: VersionFiles, signature: ModuleSignature) -> None:
        entry = files.manifest.probe
        data = files.read(entry.file)
        is_module = isinstance(files.manifest.module, ModuleSignature)
        self._probe = (
            decode_module_probe(data, signature) if is_module else decode_probe(data, files.manifest.signature)
        )
        self._names = [spec.name for spec in signature.outputs]
        self._tolerance = (entry.atol, entry.rtol)

    def verify(self, engine: Engine) -> None:
        """Raise ProbeMismatch, or what the engine raises, unless it computes what the module did. Warm afterwards."""
        for _ in range(_WARM_UP_CALLS):
            try:
                found = engine.run(self._probe.inputs)
            except PolicyOutputError as error:
                raise ProgramError(str(error)) from error
            compare_outputs(self._names, self._probe.outputs, found, *self._tolerance)


def _as_module(manifest: Manifest) -> ModuleSignature:
    """A policy's own signature as that of a module: one list of tensors in, one out, all batch first."""
    inputs, outputs = (
        tuple(ArgumentSpec(spec.name, spec.dtype, (None, *spec.shape)) for spec in specs)
        for specs in (manifest.signature.inputs, manifest.signature.outputs)
    )
    taken, given = (SequenceNode("list", tuple(TensorNode() for _ in specs)) for specs in (inputs, outputs))
    arguments = DictNode(("args", "kwargs"), (SequenceNode("tuple", (taken,)), DictNode((), ())))
    return ModuleSignature(inputs, outputs, arguments, given)


def _array(leaf: Any) -> np.ndarray:
    """The leaf as an array in C order, which is the leaf itself where it is one already."""
    if isinstance(leaf, np.ndarray):
        return np.ascontiguousarray(leaf) if leaf.ndim else leaf
    array: np.ndarray = leaf.detach().cpu().contiguous().numpy()
    return array
