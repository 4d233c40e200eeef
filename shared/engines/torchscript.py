"""Runs TorchScript: needs neither the policy's source nor its class."""

import copy
import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from shared.engines.eager import EagerEngine
from shared.engines.engine import EngineKind
from shared.errors import ProgramError
from shared.policy.program_digest import torchscript_program_digest


class TorchScriptEngine(EagerEngine):
    """An unfrozen scripted or traced module: what freezing folds would be stale after ``load_weights``."""

    kind: EngineKind = "torchscript"

    def __init__(
        self, module: torch.jit.ScriptModule, program_digest: str, outputs: Sequence[int] | None = None
    ) -> None:
        _specialise_nothing()
        super().__init__(module, program_digest, outputs)
        self._scripted = module
        self._call = module.forward  # spares four microseconds of nn.Module.__call__

    @classmethod
    def from_bytes(cls, program: bytes, outputs: Sequence[int] | None = None) -> "TorchScriptEngine":
        """Load an archive of ``torch.jit.save``, with its weights. Raises ProgramError.

        ``torch.jit.load`` checks no checksums: the caller has compared the bytes with the manifest's SHA-256.
        """
        digest = torchscript_program_digest(program)  # first: it bounds what the archive unpacks to
        try:
            with torch.inference_mode(False), _deprecation_known():  # inference tensors could not be written to later
                module = torch.jit.load(io.BytesIO(program), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:  # RuntimeError, UnicodeDecodeError, MemoryError, … were seen
            raise ProgramError(f"torch.jit.load: {type(error).__name__}: {error}") from error
        return cls(module, digest, outputs)

    def twin(self) -> "TorchScriptEngine":
        """See Engine. Takes a tenth of the time that loading takes, in which other threads stand still."""
        return TorchScriptEngine(copy.deepcopy(self._scripted), self.program_digest, self._outputs)


@functools.cache
def _specialise_nothing() -> None:
    """Have the first call of a program compile it for good, instead of profiling two calls first."""
    with _deprecation_known():
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """TorchScript is deprecated, which torch says with every call: as a FutureWarning from 2.14 on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
