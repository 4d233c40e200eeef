"""Scripting and tracing of the pieces (submodules) of one module: traced pieces in a scripted module, or reverse."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from shared.errors import ScriptingError
from shared.scripting.scripting import ScriptModule, script, trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class PieceCall(NamedTuple):
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def piece_calls(module: nn.Module, run: Callable[[], object]) -> dict[str, PieceCall]:
    """Return the first call of each piece of ``module`` during ``run``, by the piece's name."""
    calls: dict[str, PieceCall] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, PieceCall(*copy.deepcopy((args, kwargs))))

        return hook

    pieces = [(name, piece) for name, piece in module.named_modules() if not isinstance(piece, ScriptModule)]
    handles = [piece.register_forward_pre_hook(record(name), with_kwargs=True) for name, piece in pieces]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def with_traced_pieces(module: nn.Module, calls: Mapping[str, PieceCall]) -> nn.Module:
    """Return a copy with the pieces traced that cannot be scripted. Raises ScriptingError if there is none."""
    changed = _copy(module)
    if not _trace_pieces(changed, "", calls):
        raise ScriptingError("every piece of the module can be scripted, so tracing one does not help: see script")
    return changed


def _trace_pieces(module: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> bool:
    changed = False
    for name, piece in module._modules.items():
        if piece is None or _script_or_none(piece) is not None:
            continue
        path = f"{prefix}{name}"
        inside = _copy(piece)
        is_traced_inside = _trace_pieces(inside, f"{path}.", calls)
        if is_traced_inside and (isinstance(inside, _CONTAINERS) or _script_or_none(inside) is not None):
            module._modules[name] = inside
        elif path in calls:
            module._modules[name] = _traced(piece, calls[path])
        else:
            raise ScriptingError(f"{path} can be neither scripted nor, since it is not called, traced")
        changed = True
    return changed


def _copy(module: nn.Module) -> nn.Module:
    """Return a copy whose pieces may be replaced. It shares its tensors, so that new weights reach its programs."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _traced(piece: nn.Module, call: PieceCall) -> nn.Module:
    args, kwargs = call
    if kwargs and args:
        bound = inspect.signature(piece.forward).bind(*args, **kwargs)
        args, kwargs = bound.args, bound.kwargs
    return trace(piece, args, kwargs)


def with_scripted_pieces(module: nn.Module, calls: Mapping[str, PieceCall]) -> nn.Module:
    """Return a copy with its largest scriptable pieces scripted. Raises ScriptingError if there is none."""
    changed = _copy(module)
    if not _script_pieces(changed, "", calls):
        raise ScriptingError("no piece of the module can be scripted, apart from torch's own layers: see trace")
    return changed


def _script_pieces(module: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> bool:
    changed = False
    for name, piece in module._modules.items():
        if piece is None or all(type(child).__module__.startswith("torch.nn.") for child in piece.modules()):
            continue
        if isinstance(piece, ScriptModule):
            changed = True
        elif (scripted := _scripted(piece, f"{prefix}{name}.", calls)) is not None:
            module._modules[name] = scripted
            changed = True
        else:
            changed = _script_pieces(piece, f"{prefix}{name}.", calls) or changed
    return changed


def _scripted(piece: nn.Module, prefix: str, calls: Mapping[str, PieceCall]) -> nn.Module | None:
    if type(piece).forward is nn.Module.forward:
        return None
    if (scripted := _script_or_none(piece)) is not None:
        return scripted
    inside = _copy(piece)
    try:
        return _script_or_none(inside) if _trace_pieces(inside, prefix, calls) else None
    except Exception:  # noqa: BLE001 - a piece may neither be scripted nor traced, for any reason
        return None


def _script_or_none(piece: nn.Module) -> nn.Module | None:
    try:
        return script(piece)
    except Exception:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
        return None
