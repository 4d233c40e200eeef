"""The methods of TorchScript: script, trace, and each of them with pieces that the other has made."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor, nn

from learner.export.torchscript.canonical_archive import with_canonical_names
from learner.export.torchscript.mixed_scripting import PieceCall, piece_calls, with_scripted_pieces, with_traced_pieces
from shared.scripting.scripting import ScriptModule, operations, save_archive, save_program, script, trace

ScriptMethod = Literal["script", "script+trace", "trace+script", "trace"]
SCRIPT_METHODS: tuple[ScriptMethod, ...] = get_args(ScriptMethod)


class ScriptSubject(Protocol):
    """The module to export: ``flat`` is traced with the list ``example``, and ``script_core`` scripts ``core``.

    Without ``script_core``, ``core`` has the flat interface itself. The archive of a policy has no weights; archives
    of other modules are used alone.
    """

    @property
    def flat(self) -> nn.Module: ...
    @property
    def core(self) -> nn.Module: ...
    @property
    def example(self) -> list[Tensor]: ...
    @property
    def is_policy(self) -> bool: ...
    @property
    def script_core(self) -> Callable[[nn.Module], ScriptModule] | None: ...


def make_archive(method: ScriptMethod, subject: ScriptSubject) -> tuple[ScriptModule, bytes]:
    """Return the program that ``method`` makes, with canonical names, and its archive. Raises what torch raises."""
    module = with_canonical_names(_made(method, subject))
    return module, save_program(module) if subject.is_policy else save_archive(module)


def _made(method: ScriptMethod, subject: ScriptSubject) -> ScriptModule:
    script_core = subject.script_core or script
    match method:
        case "script":
            return script_core(subject.core)
        case "script+trace":
            return script_core(with_traced_pieces(subject.core, _calls(subject, subject.core)))
        case "trace+script":
            return trace(with_scripted_pieces(subject.flat, _calls(subject, subject.flat)), (subject.example,))
        case "trace":
            return trace(subject.flat, (subject.example,))


def _calls(subject: ScriptSubject, module: nn.Module) -> dict[str, PieceCall]:
    return piece_calls(module, lambda: subject.flat(subject.example))


def traced_lengths(flat: nn.Module, examples: Sequence[list[Tensor]]) -> list[int]:
    """Return the number of operations of a trace of ``flat`` with each of ``examples``."""
    return [len(operations(trace(flat, (example,)))) for example in examples]
