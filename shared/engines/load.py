"""Construction of an engine from a version's verified files. Each engine's library is imported at its first use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import UNSET

from shared.engines.engine import Engine, EngineKind
from shared.errors import NotTrusted, ProgramError, ProgramUnsupported
from shared.files.buffer_pool import Data
from shared.operators.program_check import check_program
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.policy.manifest import Manifest, ProgramEntry, ProgramKind
from shared.policy.output_bounds import Bounds, output_bounds
from shared.policy.program_digest import program_digest
from shared.policy.weights import decode_weights, dtype_named

Read = Callable[[str], Data]
"""Return the verified bytes of a file by its name."""

PROGRAM_OF: Mapping[EngineKind, ProgramKind] = {
    "llvm": "onnx",
    "onnx": "onnx",
    "torchscript": "torchscript",
    "executorch": "executorch",
    "aot": "aot",
    "compile": "importable",
    "eager": "importable",
}
"""Kind of program that each engine runs."""


def load_program(
    kind: EngineKind,
    read: Read,
    manifest: Manifest,
    *,
    trust: ProgramTrust = PURE_ONLY,
    outputs: Sequence[int] | None = None,
    batch_size: int | None = None,
    measure: bool = True,
) -> Engine:
    """Return an engine with this version's weights, which always come from the weights file.

    Args:
        trust: permissions beyond pure operators.
        outputs: positions of the outputs that the engine returns; all by default.
        batch_size: usual number of rows per call, if known.
        measure: False to let no measurement choose how an engine runs, so that equal inputs give equal bits in every
            run.

    Every program passes ``check_program`` first, before any library reads it.

    Raises PermanentLoadError (OperatorNotAllowed, NotTrusted without the permission) and any error of ``read``.
    """
    program = manifest.program(PROGRAM_OF[kind])
    if program is None:
        raise ProgramError(f"version {manifest.version} has no {PROGRAM_OF[kind]} program")
    data = read_program(program, read)
    check_program(program.kind, data, trust)
    weights = decode_weights(read(manifest.weights))
    engine: Engine
    if kind == "llvm":
        from shared.engines.llvm import LlvmEngine

        engine = LlvmEngine(data, weights, outputs=outputs, bounds=_bounds(manifest, outputs))
    elif kind == "onnx":
        from shared.engines.onnx import OnnxEngine

        # The batch of a module that is not a policy may be in any dimension.
        rows = batch_size if measure and manifest.module is UNSET else None
        engine = OnnxEngine(
            data,
            weights,
            bind=manifest.module is UNSET,
            outputs=outputs,
            batch_size=batch_size,
            measure_with=None if rows is None else _blank_inputs(manifest, rows),
        )
    elif kind == "torchscript":
        from shared.engines.torchscript import TorchScriptEngine

        engine = TorchScriptEngine.from_bytes(data, weights, outputs, output_dtypes(manifest))
    elif kind == "executorch":
        engine = _executorch_engine(data, weights, outputs, trust)
    elif kind == "aot":
        from shared.engines.aot import AotEngine

        engine = AotEngine(data, weights, trust_native=trust.native, outputs=outputs)
    else:
        from shared.engines.eager import EagerEngine, TorchCompileEngine
        from shared.engines.importable import load_importable

        module = load_importable(data, weights, trust.modules)
        make = TorchCompileEngine if kind == "compile" else EagerEngine
        engine = make(module, program.program_digest, outputs, output_dtypes(manifest))
    return engine


def _executorch_engine(
    program: bytes, weights: Mapping[str, np.ndarray], outputs: Sequence[int] | None, trust: ProgramTrust
) -> Engine:
    if not trust.native:
        raise NotTrusted(
            "allow native code with --trust-native if you trust the publisher: ExecuTorch does not check its programs, "
            "so that they can do what native code can"
        )
    try:
        from shared.engines.executorch import ExecutorchEngine
    except ImportError as error:
        raise ProgramUnsupported(f'pip install "rl-hotswap[executorch]" to run ExecuTorch programs: {error}') from error
    return ExecutorchEngine(program, weights, outputs=outputs)


def output_dtypes(manifest: Manifest) -> list[np.dtype[Any]]:
    """Return the dtype that the manifest promises of each output of its programs."""
    promised = manifest.signature.outputs if manifest.module is UNSET else manifest.module.outputs
    return [dtype_named(spec.dtype) for spec in promised]


def _blank_inputs(manifest: Manifest, rows: int) -> list[np.ndarray]:
    return [np.zeros((rows, *spec.shape), spec.dtype) for spec in manifest.signature.inputs]


def _bounds(manifest: Manifest, outputs: Sequence[int] | None) -> Sequence[Bounds] | None:
    if manifest.module is not UNSET:
        return None
    bounds = output_bounds(manifest.signature)
    return bounds if outputs is None else [bounds[position] for position in outputs]


def check_support(kind: EngineKind, program: ProgramEntry, read: Read) -> None:
    """Raise ProgramUnsupported for a program that ``kind`` cannot run, and ProgramError for a file that is none."""
    if kind == "llvm":
        from shared.engines.llvm import read_row_program

        read_row_program(read_program(program, read))


def read_program(program: ProgramEntry, read: Read) -> bytes:
    """Return the program's bytes. Raises ProgramError unless they have the manifest's program digest."""
    data = bytes(read(program.file))
    found = program_digest(program.kind, data)
    if found != program.program_digest:
        raise ProgramError(f"{program.file}: expected the program digest {program.program_digest}, found {found}")
    return data
