"""From a verified version's files to an engine. Each engine's library is imported only where it is asked for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import UNSET

from shared.engines.engine import Engine, EngineKind
from shared.errors import ProgramError
from shared.manifest import Manifest, ProgramKind
from shared.weights import decode_weights

Read = Callable[[str], bytes]
"""A file's verified bytes by its name."""

PROGRAM_OF: Mapping[EngineKind, ProgramKind] = {
    "torchscript": "torchscript",
    "onnx": "onnx",
    "aot": "aot",
    "compile": "importable",
    "eager": "importable",
}
"""Which program of a version each engine runs."""


def load_program(
    kind: EngineKind,
    read: Read,
    manifest: Manifest,
    *,
    trust_native: bool = False,
    trusted_modules: Sequence[str] = (),
    outputs: Sequence[int] | None = None,
) -> Engine:
    """An engine with this version's weights. Raises PermanentLoadError's kinds; what ``read`` raises passes through.

    ``trust_native`` allows native code (aot), ``trusted_modules`` are the prefixes of modules that may be imported
    (compile, eager); without them these raise NotTrusted. The weights always come from the weights file, so that the
    slow path and the fast one give the same policy. ``outputs`` are the positions of those that the engine returns; all
    of them by default.
    """
    program = manifest.program(PROGRAM_OF[kind])
    if program is None:
        raise ProgramError(f"version {manifest.version} has no {PROGRAM_OF[kind]} program")
    weights = decode_weights(read(manifest.weights))
    engine: Engine
    if kind == "onnx":
        from shared.engines.onnx import OnnxEngine

        # A module that is no policy may have its batch anywhere.
        engine = OnnxEngine(read(program.file), weights, bind=manifest.module is UNSET, outputs=outputs)
    elif kind == "torchscript":
        from shared.engines.torchscript import TorchScriptEngine

        engine = TorchScriptEngine.from_bytes(read(program.file), outputs)
        engine.load_weights(weights)
    elif kind == "aot":
        from shared.engines.aot import AotEngine

        engine = AotEngine(read(program.file), weights, trust_native=trust_native, outputs=outputs)
    else:
        engine = _import(kind, read(program.file), weights, trusted_modules, outputs)
    if engine.program_digest != program.program_digest:
        raise ProgramError(
            f"{program.file}: the manifest promises the program {program.program_digest}, found {engine.program_digest}"
        )
    return engine


def _import(
    kind: EngineKind,
    definition: bytes,
    weights: Mapping[str, np.ndarray],
    trusted_modules: Sequence[str],
    outputs: Sequence[int] | None,
) -> Engine:
    from shared.engines.compiled import CompiledEngine
    from shared.engines.eager import EagerEngine
    from shared.importable import importable_digest, load_importable

    make = CompiledEngine if kind == "compile" else EagerEngine
    return make(load_importable(definition, weights, trusted_modules), importable_digest(definition), outputs)
