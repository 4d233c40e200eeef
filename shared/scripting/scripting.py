"""torch.jit.script, and torch.jit.trace where it fails.

torch reports no error if it scripts a file that was edited after its import, or traces a loop over a shape for one
size. So each program has to pass the caller's check.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from shared.errors import PolicyError
from shared.policy.manifest import MethodReport
from shared.scripting.baked_decisions import refuse_baked_decisions

__all__ = ["Check", "ScriptModule", "Scripted"]

Check = Callable[[ScriptModule], object]
"""Runs a program, compares it with eager, and raises PolicyError if they differ."""

# The type that a failed attempt left incomplete, or one whose pieces have new types since.
_STALE_TYPES = ("Can't redefine method", "Could not cast attribute")


@dataclass(frozen=True)
class Scripted:
    """A scripted or traced module that passed its check. It shares its tensors with the original module."""

    module: ScriptModule
    method: Literal["script", "trace"]


def script_or_trace(
    module: nn.Module, example: Sequence[Tensor], check: Check
) -> tuple[Scripted | None, tuple[MethodReport, ...]]:
    """Script ``module``, which is in eval mode, or else trace it with ``example``.

    Returns:
        The first program that passes ``check``, or None; and a report of each method that failed, with torch's own
        message word for word.
    """
    failures: list[MethodReport] = []
    methods: tuple[tuple[Literal["script", "trace"], Callable[[], ScriptModule]], ...] = (
        ("script", lambda: script(module)),
        ("trace", lambda: trace(module, (list(example),))),
    )
    for method, make in methods:
        try:
            with without_torch_warnings():
                made = make()
                check(made)
        except PolicyError as error:
            failures.append(MethodReport(method, taken=False, error=f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
            failures.append(MethodReport(method, taken=False, error=str(error) or type(error).__name__))
        else:
            return Scripted(made, method), tuple(failures)
    return None, tuple(failures)


def save_archive(module: ScriptModule) -> bytes:
    """Return the bytes that ``torch.jit.load`` reads, in Python and in C++."""
    return bytes(module.save_to_buffer())


def script(module: nn.Module) -> ScriptModule:
    """Call torch.jit.script; raise its original error, also if an earlier failed attempt hides it."""
    try:
        return torch.jit.script(module)
    except Exception as error:
        _forget_types(module)
        if not any(sign in str(error) for sign in _STALE_TYPES):
            raise
    # An earlier attempt left an incomplete type behind, which hides the reason. Without it, torch reports the reason.
    try:
        return torch.jit.script(module)
    except Exception:
        _forget_types(module)
        raise


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> ScriptModule:
    """Call torch.jit.trace for one call, with positional or keyword arguments, not both.

    Raises ScriptingError if the trace would keep a decision that depends on the inputs.
    """
    refuse_baked_decisions(module, args, kwargs or {})
    # check_trace would compare one more call with the same inputs; the caller's check covers that.
    with torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module,
            None if kwargs else args,
            example_kwarg_inputs=dict(kwargs) if kwargs else None,
            check_trace=False,
            _store_inputs=False,
        )
    assert isinstance(traced, ScriptModule)
    return traced


def is_scripted(module: nn.Module) -> bool:
    """Return True if ``module`` has been scripted or traced."""
    return isinstance(module, ScriptModule)


class _Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def script_around(module: ScriptModule, forward: str, names: Mapping[str, type[Any]]) -> ScriptModule:
    """Return a scripted module with ``module`` as its attribute and ``forward`` as TorchScript source.

    ``names`` are the classes that the source refers to. No file is read.
    """
    torch.jit._recursive.concrete_type_store.type_store.pop(_Holder, None)  # each module has its own type
    holder = torch.jit.script(_Holder(module))
    holder._c._define(holder._concrete_type, forward, names.get)
    return holder


def operations(program: ScriptModule) -> list[str]:
    """Return the names of the operations of a traced program; another loop count or branch changes them."""
    return [str(node.kind()) for node in program.inlined_graph.nodes()]


def _forget_types(module: nn.Module) -> None:
    """Drop the types that torch made of the classes in ``module``: after a failure they are incomplete."""
    store = torch.jit._recursive.concrete_type_store
    for child in module.modules():
        store.type_store.pop(type(child), None)


@contextmanager
def without_torch_warnings() -> Iterator[None]:
    """Suppress warnings: the deprecation of TorchScript is known, and the check covers the other ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
