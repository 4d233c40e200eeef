"""From a verified version's files to an engine. Each engine's library is imported only where it is asked for."""

from collections.abc import Callable

from shared.engines.engine import Engine
from shared.errors import ProgramError
from shared.manifest import Manifest, ProgramKind
from shared.weights import decode_weights

Read = Callable[[str], bytes]
"""A file's verified bytes by its name."""


def load_program(kind: ProgramKind, read: Read, manifest: Manifest) -> Engine:
    """An engine with this version's weights. Raises PermanentLoadError's kinds; what ``read`` raises passes through.

    The weights always come from the weights file, so that the slow path and the fast one give the same policy.
    """
    program = manifest.program(kind)
    if program is None:
        raise ProgramError(f"version {manifest.version} has no {kind} program")
    weights = decode_weights(read(manifest.weights))
    engine: Engine
    if kind == "onnx":
        from shared.engines.onnx import OnnxEngine

        engine = OnnxEngine(read(program.file), weights)
    elif kind == "torchscript":
        from shared.engines.torchscript import TorchScriptEngine

        engine = TorchScriptEngine.from_bytes(read(program.file))
        engine.load_weights(weights)
    else:
        raise ProgramError("an importable policy is loaded with load_importable, which asks what may be imported")
    if engine.program_digest != program.program_digest:
        raise ProgramError(
            f"{program.file}: the manifest promises the program {program.program_digest}, found {engine.program_digest}"
        )
    return engine
