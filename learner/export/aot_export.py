"""Export to an AOTInductor package: native code for this kind of processor, by torch.export and a C++ compiler."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from learner.export.flat_module import FlatInterface, quietly
from shared.engines.aot import BUILD_KEY, LAYOUT_KEY, build_name
from shared.engines.eager import module_tensors
from shared.errors import ExportError

# Without these, the compiler may write tensors of any size into the code, where new weights would not reach them.
_OPTIONS: dict[str, Any] = {
    "always_keep_tensor_constants": True,
    "aot_inductor.use_runtime_constant_folding": False,
    "freezing": False,
}

# The compiler's default is this one processor; a package is for all processors of its kind.
_MARCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}


def export_aot(module: nn.Module, interface: FlatInterface) -> bytes:
    """Return the package ("pt2") of ``module``, whose ``forward`` takes and returns one list of tensors.

    The package is for every batch size. Takes 15 to 40 s. Its constants have the names of the module's parameters and
    buffers, so ``load_constants`` replaces the weights; ``loader.run`` takes and returns the flat list. Raises
    ExportError.
    """
    shapes = [{} if dim is None else {dim: torch.export.Dim("batch", min=1)} for dim in interface.batch_dims]
    with quietly(), torch.no_grad():
        try:
            program = torch.export.export(module, (list(interface.example),), dynamic_shapes=(shapes,), strict=False)
        except Exception as error:  # torch.export's errors are many, and a policy's own code may raise anything
            raise ExportError(f"torch.export: {type(error).__name__}: {error}") from error
    options = {**_OPTIONS, "aot_inductor.metadata": _metadata(module)}
    if (march := _MARCH.get(torch.backends.cpu.get_cpu_capability())) and hasattr(torch._inductor.config.cpp, "march"):
        options["cpp.march"] = march
    with quietly(), tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        except Exception as error:  # inductor's own errors, and those of the compiler that it calls
            raise ExportError(f"AOTInductor: {type(error).__name__}: {error}") from error
        return path.read_bytes()


def _metadata(module: nn.Module) -> dict[str, str]:
    """Return the machines that the code is for, and the layout of its weights: an actor reads both before loading."""
    layout = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in module_tensors(module).items()
    }
    return {BUILD_KEY: build_name(), LAYOUT_KEY: msgspec.json.encode(layout).decode()}
