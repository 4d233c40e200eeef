"""torch.jit.script, and torch.jit.trace where it fails. What comes out counts only once its outputs have been compared.

A file that was edited after its import is scripted as it is now, a loop over a shape is traced for one size, and
neither says a word: so each method is put to the caller's ``check`` before it is taken.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from shared.errors import PolicyError, ScriptingError
from shared.policy.manifest import MethodReport
from shared.scripting.baked_decisions import refuse_baked_decisions

__all__ = ["Attempt", "Check", "ExportMethod", "ScriptModule", "Scripted"]

ExportMethod = Literal["script", "script+trace", "trace+script", "trace"]
Attempt = tuple[ExportMethod, Callable[[], ScriptModule]]
"""A method and what makes its program."""
Check = Callable[[ScriptModule], float]
"""Runs a program, compares it with eager, returns the largest difference, raises PolicyError where it is too large."""

# A type that another failure left half made, or one whose pieces have been given new types since.
_STALE_TYPES = ("Can't redefine method", "Could not cast attribute")


@dataclass(frozen=True)
class Scripted:
    """A scripted or traced module that passed its check. It shares its tensors with the module that it came from."""

    module: torch.jit.ScriptModule
    method: ExportMethod
    largest_difference: float
    failures: tuple[MethodReport, ...]


def script_or_trace(module: nn.Module, example: Sequence[Tensor], check: Check) -> Scripted:
    """Take the first method that passes ``check``. ``module`` is in eval mode.

    Raises ScriptingError where none does; its message is what was said first, word for word; its notes name every
    method.
    """
    scripted, failures = try_methods(module, example, check)
    if scripted is None:
        error = ScriptingError(failures[0].error)
        for failure in failures:
            error.add_note(f"{failure.method}: {failure.error}")
        raise error
    return scripted


def try_methods(
    module: nn.Module,
    example: Sequence[Tensor],
    check: Check,
    between: Sequence[Attempt] = (),
) -> tuple[Scripted | None, tuple[MethodReport, ...]]:
    """As ``script_or_trace``, with None where no method is left; and a report of each method that failed.

    ``between`` are methods to try after script and before trace: see ``learner.export.mixed_scripting.mixed_methods``.
    """
    failures: list[MethodReport] = []
    attempts: tuple[Attempt, ...] = (
        ("script", lambda: script(module)),
        *between,
        ("trace", lambda: trace(module, (list(example),))),
    )
    for method, make in attempts:
        try:
            with without_torch_warnings():
                made = make()
                difference = check(made)
        except PolicyError as error:
            failures.append(MethodReport(method, taken=False, error=f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
            failures.append(MethodReport(method, taken=False, error=str(error) or type(error).__name__))
        else:
            return Scripted(made, method, difference, tuple(failures)), tuple(failures)
    return None, tuple(failures)


def save_archive(module: torch.jit.ScriptModule) -> bytes:
    """The bytes that ``torch.jit.load`` reads, from Python or from C++."""
    return bytes(module.save_to_buffer())


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """torch.jit.script, whose first error is the one that is raised, also where an earlier attempt hid it."""
    try:
        return torch.jit.script(module)
    except Exception as error:
        _forget_types(module)
        if not any(sign in str(error) for sign in _STALE_TYPES):
            raise
    # Someone's earlier attempt failed and left a half-made type behind, which hides the reason: the next try tells it.
    try:
        return torch.jit.script(module)
    except Exception:
        _forget_types(module)
        raise


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> torch.jit.ScriptModule:
    """torch.jit.trace of one call, which is positional or by keyword, not both.

    Raises ScriptingError where it would keep a decision that depends on the inputs.
    """
    refuse_baked_decisions(module, args, kwargs or {})
    # check_trace would call it again with the same inputs, which proves nothing that the caller's check does not.
    with torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module,
            None if kwargs else args,
            example_kwarg_inputs=dict(kwargs) if kwargs else None,
            check_trace=False,
            _store_inputs=False,
        )
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def is_scripted(module: nn.Module) -> bool:
    """Whether somebody has scripted or traced it already."""
    return isinstance(module, torch.jit.ScriptModule)


class _Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def script_around(
    module: torch.jit.ScriptModule, forward: str, names: Mapping[str, type[Any]]
) -> torch.jit.ScriptModule:
    """A scripted module that holds ``module`` under that name, with ``forward`` given as TorchScript's own source text.

    ``names`` are the classes that the text refers to. No file is read for it.
    """
    torch.jit._recursive.concrete_type_store.type_store.pop(_Holder, None)  # every module has a type of its own
    holder = torch.jit.script(_Holder(module))
    holder._c._define(holder._concrete_type, forward, names.get)
    return holder


def operations(program: torch.jit.ScriptModule) -> list[str]:
    """What a traced program does, one name an operation: another loop count or branch shows here."""
    return [str(node.kind()) for node in program.inlined_graph.nodes()]


def _forget_types(module: nn.Module) -> None:
    """Drop the types that torch made of the classes in ``module``: after a failure they are not whole."""
    store = torch.jit._recursive.concrete_type_store
    for child in module.modules():
        store.type_store.pop(type(child), None)


@contextmanager
def without_torch_warnings() -> Iterator[None]:
    """TorchScript's deprecation is known here, and what else it warns of while compiling is answered by the check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
