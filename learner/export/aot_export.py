"""A policy as an AOTInductor package: native code for this kind of processor, by torch.export and a C++ compiler."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from shared.engines.aot import BUILD_KEY, LAYOUT_KEY, build_name
from shared.engines.eager import module_tensors
from shared.errors import ExportError

# Without these, small and large tensors alike may be written into the code, where no new weights would reach them.
_OPTIONS: dict[str, Any] = {
    "always_keep_tensor_constants": True,
    "aot_inductor.use_runtime_constant_folding": False,
    "freezing": False,
}

# For all processors of this one's kind, not for this one alone, as the compiler would do.
_MARCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}


def export_aot(module: nn.Module, example: Sequence[Tensor], batch_dims: Sequence[int | None]) -> bytes:
    """The package ("pt2") of ``module``, whose ``forward`` takes and returns one list of tensors. Takes 15 to 40 s.

    ``batch_dims`` says of each input which of its dimensions is the batch, or None. The package's constants are named
    as the module's parameters and buffers are, so that ``load_constants`` gives it new weights; ``loader.run`` takes
    and returns the flat list. Raises ExportError.
    """
    program = export_program(module, example, batch_dims)
    options = {**_OPTIONS, "aot_inductor.metadata": _metadata(module)}
    if (march := _MARCH.get(torch.backends.cpu.get_cpu_capability())) and hasattr(torch._inductor.config.cpp, "march"):
        options["cpp.march"] = march
    with _quietly(), tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        except Exception as error:  # inductor's own errors, and those of the compiler that it calls
            raise ExportError(f"AOTInductor: {type(error).__name__}: {error}") from error
        return path.read_bytes()


def _metadata(module: nn.Module) -> dict[str, str]:
    """What an actor asks before it loads the code: for which machines it is, and which weights it wants."""
    layout = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in module_tensors(module).items()
    }
    return {BUILD_KEY: build_name(), LAYOUT_KEY: msgspec.json.encode(layout).decode()}


def export_program(
    module: nn.Module, example: Sequence[Tensor], batch_dims: Sequence[int | None]
) -> torch.export.ExportedProgram:
    """``torch.export`` of ``module`` for every batch size. Raises ExportError, also where it would be one size only.

    Needs no source: it follows the calls as they happen.
    """
    shapes = [{} if dim is None else {dim: torch.export.Dim("batch", min=1)} for dim in batch_dims]
    with _quietly(), torch.no_grad():
        try:
            return torch.export.export(module, (list(example),), dynamic_shapes=(shapes,), strict=False)
        except Exception as error:  # torch.export's errors are many, and a policy's own code may raise anything
            raise ExportError(f"torch.export: {type(error).__name__}: {error}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Both print and warn at length of what the caller's check decides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
