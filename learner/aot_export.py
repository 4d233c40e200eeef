"""A policy as an AOTInductor package: native code for this kind of processor, made by torch.export and a C++ compiler."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from shared.errors import ExportError

# Without these, small and large tensors alike may be written into the code, where no new weights would reach them.
_OPTIONS = {
    "always_keep_tensor_constants": True,
    "aot_inductor.use_runtime_constant_folding": False,
    "freezing": False,
}


def export_aot(module: nn.Module, example: Sequence[Tensor], batch_dims: Sequence[int | None]) -> bytes:
    """The package ("pt2") of ``module``, whose ``forward`` takes and returns one list of tensors. Takes 15 to 40 s.

    ``batch_dims`` says of each input which of its dimensions is the batch, or None. The package's constants are named
    as the module's parameters and buffers are, so that ``load_constants`` gives it new weights; ``loader.run`` takes and
    returns the flat list. Raises ExportError.
    """
    program = export_program(module, example, batch_dims)
    with _quietly(), tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_OPTIONS)
        except Exception as error:  # inductor's own errors, and those of the compiler that it calls
            raise ExportError(f"AOTInductor: {type(error).__name__}: {error}") from error
        return path.read_bytes()


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
