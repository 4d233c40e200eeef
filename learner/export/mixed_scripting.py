"""Scripting and tracing mixed: each does what the other cannot, piece by piece of one module.

A scripted module may hold traced pieces (code that TorchScript cannot read, without decisions in it), a traced one
scripted pieces (whose decisions then stay decisions).
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from shared.errors import ScriptingError
from shared.scripting.scripting import Attempt, ScriptModule, is_scripted, script, trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class PieceCall:
    """How a piece was called."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def mixed_methods(module: nn.Module, example: Sequence[Tensor]) -> tuple[Attempt, Attempt]:
    """Both ways to mix, for a module that takes one list of tensors. Programs share their tensors with it."""

    def script_with_traced_pieces() -> ScriptModule:
        return script(with_traced_pieces(module, piece_calls(module, lambda: module(list(example)))))

    def trace_with_scripted_pieces() -> ScriptModule:
        calls = piece_calls(module, lambda: module(list(example)))
        return trace(with_scripted_pieces(module, calls), (list(example),))

    return ("script+trace", script_with_traced_pieces), ("trace+script", trace_with_scripted_pieces)


def piece_calls(module: nn.Module, run: Callable[[], object]) -> dict[str, PieceCall]:
    """The first call of every piece of ``module`` while ``run`` runs, by the piece's name."""
    calls: dict[str, PieceCall] = {}
    with _hooks(module, calls):
        run()
    return calls


@contextmanager
def _hooks(module: nn.Module, calls: dict[str, PieceCall]) -> Iterator[None]:
    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, PieceCall(*copy.deepcopy((args, kwargs))))

        return hook

    handles = []
    try:
        for name, piece in module.named_modules():
            if is_scripted(piece):
                continue
            handles.append(piece.register_forward_pre_hook(remember(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_traced_pieces(module: nn.Module, calls: Mapping[str, PieceCall]) -> nn.Module:
    """A copy of ``module`` in which what cannot be scripted has been traced, as deep down as that is possible.

    Raises ScriptingError where no piece needs it: then it is the module's own code that cannot be scripted.
    """
    changed = _copy(module)
    if not _trace_pieces(changed, "", calls):
        raise ScriptingError("every piece of the module can be scripted, so tracing one does not help: see script")
    return changed


def _trace_pieces(module: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> bool:
    changed = False
    for name, piece in module._modules.items():
        if piece is None or _can_be_scripted(piece):
            continue
        path = f"{prefix}{name}"
        inside = _copy(piece)
        if _trace_pieces(inside, f"{path}.", calls) and (isinstance(inside, _CONTAINERS) or _can_be_scripted(inside)):
            module._modules[name] = inside
        elif path in calls:
            module._modules[name] = _traced(piece, calls[path])
        else:
            raise ScriptingError(f"{path} can be neither scripted nor, since it is not called, traced")
        changed = True
    return changed


def _copy(module: nn.Module) -> nn.Module:
    """Its pieces may be replaced; its tensors are the very same, so that new weights reach what is made of it."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _traced(piece: nn.Module, call: PieceCall) -> nn.Module:
    if not call.kwargs or not call.args:
        return trace(piece, call.args, call.kwargs)
    bound = inspect.signature(piece.forward).bind(*call.args, **call.kwargs)
    return trace(piece, bound.args, bound.kwargs)


def with_scripted_pieces(module: nn.Module, calls: Mapping[str, PieceCall]) -> nn.Module:
    """A copy of ``module`` in which the largest pieces that can be scripted have been, with pieces of theirs traced.

    Raises ScriptingError where there are none but layers of torch itself.
    """
    changed = _copy(module)
    if not _script_pieces(changed, "", calls):
        raise ScriptingError("no piece of the module can be scripted, apart from torch's own layers: see trace")
    return changed


def _script_pieces(module: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> bool:
    changed = False
    for name, piece in module._modules.items():
        if piece is None or all(type(child).__module__.startswith("torch.nn.") for child in piece.modules()):
            continue
        if is_scripted(piece):
            changed = True  # somebody did it already
        elif (scripted := _scripted(piece, f"{prefix}{name}.", calls)) is not None:
            module._modules[name] = scripted
            changed = True
        else:
            changed = _script_pieces(piece, f"{prefix}{name}.", calls) or changed
    return changed


def _scripted(piece: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> nn.Module | None:
    """``piece`` scripted as it is, or else around what has to be traced of it; None where neither can be."""
    if type(piece).forward is nn.Module.forward:
        return None
    if _can_be_scripted(piece):
        return script(piece)
    inside = _copy(piece)
    try:
        return script(inside) if _trace_pieces(inside, prefix, calls) else None
    except Exception:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
        return None


def _can_be_scripted(piece: nn.Module) -> bool:
    try:
        script(piece)
    except Exception:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
        return False
    return True
