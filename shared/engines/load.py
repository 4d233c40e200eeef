"""From a verified version's files to an engine. Each engine's library is imported only where it is asked for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import UNSET

from shared.engines.engine import Engine, EngineKind
from shared.errors import ProgramError
from shared.files.buffer_pool import Data
from shared.policy.manifest import Manifest, ProgramEntry, ProgramKind
from shared.policy.output_bounds import Bounds, output_bounds
from shared.policy.program_digest import program_digest
from shared.policy.weights import decode_weights

Read = Callable[[str], Data]
"""A file's verified bytes by its name."""

PROGRAM_OF: Mapping[EngineKind, ProgramKind] = {
    "llvm": "onnx",
    "onnx": "onnx",
    "torchscript": "torchscript",
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
    batch_size: int | None = None,
) -> Engine:
    """An engine with this version's weights. Raises PermanentLoadError's kinds; what ``read`` raises passes through.

    ``trust_native`` allows native code (aot), ``trusted_modules`` are the prefixes of modules that may be imported
    (compile, eager); without them these raise NotTrusted. The weights always come from the weights file, so that the
    slow path and the fast one give the same policy. ``outputs`` are the positions of those that the engine returns; all
    of them by default. ``batch_size``: how many rows it will mostly be called with, where that is known.
    """
    program = manifest.program(PROGRAM_OF[kind])
    if program is None:
        raise ProgramError(f"version {manifest.version} has no {PROGRAM_OF[kind]} program")
    data = read_program(program, read)
    weights = decode_weights(read(manifest.weights))
    engine: Engine
    if kind == "llvm":
        from shared.engines.llvm import LlvmEngine

        engine = LlvmEngine(data, weights, outputs=outputs, bounds=_bounds(manifest, outputs))
    elif kind == "onnx":
        from shared.engines.onnx import OnnxEngine

        # A module that is no policy may have its batch anywhere.
        engine = OnnxEngine(data, weights, bind=manifest.module is UNSET, outputs=outputs, batch_size=batch_size)
    elif kind == "torchscript":
        from shared.engines.torchscript import TorchScriptEngine

        engine = TorchScriptEngine.from_bytes(data, outputs)
        engine.load_weights(weights)
    elif kind == "aot":
        from shared.engines.aot import AotEngine

        engine = AotEngine(data, weights, trust_native=trust_native, outputs=outputs)
    else:
        engine = _import(kind, data, weights, trusted_modules, outputs)
    return engine


def _bounds(manifest: Manifest, outputs: Sequence[int] | None) -> Sequence[Bounds] | None:
    """What the ``outputs`` of a policy may hold; None for a module that is none."""
    if manifest.module is not UNSET:
        return None
    bounds = output_bounds(manifest.signature)
    return bounds if outputs is None else [bounds[position] for position in outputs]


def check_support(kind: EngineKind, program: ProgramEntry, read: Read) -> None:
    """Raise ProgramUnsupported where it can be told, without running anything, that ``kind`` does not run this program.

    Raises ProgramError for what is no program at all.
    """
    if kind == "llvm":
        from shared.engines.llvm import read_row_program

        read_row_program(read_program(program, read))


def read_program(program: ProgramEntry, read: Read) -> bytes:
    """The program's bytes, which must be of the digest that the manifest gives them, before anything runs them.

    What is known of a digest, such as that it was tried and did no harm, holds only then. Raises ProgramError.
    """
    data = bytes(read(program.file))
    found = program_digest(program.kind, data)
    if found != program.program_digest:
        raise ProgramError(f"{program.file}: the manifest promises the program {program.program_digest}, found {found}")
    return data


def _import(
    kind: EngineKind,
    definition: bytes,
    weights: Mapping[str, np.ndarray],
    trusted_modules: Sequence[str],
    outputs: Sequence[int] | None,
) -> Engine:
    from shared.engines.eager import EagerEngine
    from shared.engines.importable import importable_digest, load_importable
    from shared.engines.torch_compile import TorchCompileEngine

    make = TorchCompileEngine if kind == "compile" else EagerEngine
    return make(load_importable(definition, weights, trusted_modules), importable_digest(definition), outputs)
