"""Engine for TorchScript archives, which need neither the policy's source nor its class."""

import copy
import functools
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from shared.engines.eager import EagerEngine, module_arrays
from shared.engines.engine import EngineKind
from shared.errors import ProgramError
from shared.policy.program_digest import torchscript_digest
from shared.policy.torchscript_archive import build_archive, read_archive
from shared.policy.weights import check_weights


class TorchScriptEngine(EagerEngine):
    """Runs an unfrozen module: constants folded by freezing would be stale after ``load_weights``."""

    kind: EngineKind = "torchscript"

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        program_digest: str,
        outputs: Sequence[int] | None = None,
        dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> None:
        _compile_at_first_call()
        super().__init__(module, program_digest, outputs, dtypes)
        self._scripted = module
        self._call = module.forward  # saves the four microseconds of nn.Module.__call__

    @classmethod
    def from_bytes(
        cls,
        program: bytes,
        weights: Mapping[str, np.ndarray],
        outputs: Sequence[int] | None = None,
        dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> "TorchScriptEngine":
        """Return the engine of ``load_script_module``. Raises like it."""
        module, digest = load_script_module(program, weights)
        return cls(module, digest, outputs, dtypes)

    def twin(self) -> "TorchScriptEngine":
        """Return a deep copy; see ``Engine``. It holds the GIL for a tenth of the time that loading does."""
        return TorchScriptEngine(copy.deepcopy(self._scripted), self.program_digest, self._outputs, self._all_dtypes)


def load_script_module(program: bytes, weights: Mapping[str, np.ndarray]) -> tuple[torch.jit.ScriptModule, str]:
    """Load an archive of ``save_program`` or ``save_archive`` with ``weights``; return the module and its digest.

    The caller has verified the archive's SHA-256 and its operators (``shared.operators.program_check``). torch gets
    an archive made of the entries that its digest covers. Raises ProgramError, and WeightsError for weights of another
    layout or not finite.
    """
    entries = read_archive(program)
    digest = torchscript_digest(entries)
    try:
        with torch.inference_mode(False), _deprecation_ignored():  # inference tensors could not be written to later
            module = torch.jit.load(io.BytesIO(build_archive(entries)), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # observed: RuntimeError, UnicodeDecodeError, MemoryError, ...
        raise ProgramError(f"torch.jit.load: {type(error).__name__}: {error}") from error
    # Before memory is taken for what the archive claims.
    check_weights(module_arrays(module), weights)
    try:
        with torch.inference_mode(False):
            for tensor in (*module.parameters(), *module.buffers()):
                if not tensor.is_contiguous():  # of ``save_program``: one number stands for all
                    tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype)
    except RuntimeError as error:
        raise ProgramError(f"memory of the weights: {error}") from error
    for name, array in module_arrays(module).items():
        np.copyto(array, weights[name], casting="no")
    return module, digest


@functools.cache
def _compile_at_first_call() -> None:
    """Let the first call of a program compile it, instead of the third after two profiled calls."""
    with _deprecation_ignored():
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])


@contextmanager
def _deprecation_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
