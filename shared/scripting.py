"""torch.jit.script, and torch.jit.trace where it fails. What comes out counts only once its outputs have been compared.

A file that was edited after its import is scripted as it is now, a loop over a shape is traced for one size, and
neither says a word: so each rung is put to the caller's ``check`` before it is taken.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from shared.errors import PolicyError, ScriptingError
from shared.manifest import RungReport

Rung = Literal["script", "trace"]
Check = Callable[[Callable[[list[Tensor]], list[Tensor]]], float]
"""Runs a program, compares it with eager, returns the largest difference, raises PolicyError where it is too large."""

_POISONED = "Can't redefine method"


@dataclass(frozen=True)
class Scripted:
    """A scripted or traced module that passed its check. It shares its tensors with the module that it came from."""

    module: torch.jit.ScriptModule
    rung: Rung
    largest_difference: float
    failures: tuple[RungReport, ...]


def script_or_trace(module: nn.Module, example: Sequence[Tensor], check: Check) -> Scripted:
    """Take the first rung that passes ``check``. ``module`` is in eval mode.

    Raises ScriptingError where none does; its message is what was said first, word for word; its notes name every rung.
    """
    scripted, failures = climb(module, example, check)
    if scripted is None:
        error = ScriptingError(failures[0].error)
        for failure in failures:
            error.add_note(f"{failure.rung}: {failure.error}")
        raise error
    return scripted


def climb(module: nn.Module, example: Sequence[Tensor], check: Check) -> tuple[Scripted | None, tuple[RungReport, ...]]:
    """As ``script_or_trace``, with None where no rung is left; and a report of each rung that failed."""
    failures: list[RungReport] = []
    rungs: tuple[tuple[Rung, Callable[[], torch.jit.ScriptModule]], ...] = (
        ("script", lambda: _script(module)),
        ("trace", lambda: _trace(module, example)),
    )
    for rung, make in rungs:
        try:
            with _without_torch_warnings():
                made = make()
                difference = check(made)
        except PolicyError as error:
            failures.append(RungReport(rung, taken=False, error=f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - torch raises OSError, TypeError, RuntimeError, IndentationError, …
            failures.append(RungReport(rung, taken=False, error=str(error) or type(error).__name__))
        else:
            return Scripted(made, rung, difference, tuple(failures)), tuple(failures)
    return None, tuple(failures)


def save_archive(module: torch.jit.ScriptModule) -> bytes:
    """The bytes that ``torch.jit.load`` reads, from Python or from C++."""
    return bytes(module.save_to_buffer())


def _script(module: nn.Module) -> torch.jit.ScriptModule:
    try:
        return torch.jit.script(module)
    except Exception as error:
        _forget_types(module)
        if _POISONED not in str(error):
            raise
    # Someone's earlier attempt failed and left a half-made type behind, which hides the reason: the next try tells it.
    try:
        return torch.jit.script(module)
    except Exception:
        _forget_types(module)
        raise


def _trace(module: nn.Module, example: Sequence[Tensor]) -> torch.jit.ScriptModule:
    # check_trace would call it again with the same inputs, which proves nothing that the caller's check does not.
    with torch.no_grad():
        inputs = (list(example),)
        traced = torch.jit.trace(module, inputs, check_trace=False, _store_inputs=False)  # type: ignore[no-untyped-call]
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def _forget_types(module: nn.Module) -> None:
    """Drop the types that torch made of the classes in ``module``: after a failure they are not whole."""
    store = torch.jit._recursive.concrete_type_store
    for child in module.modules():
        store.type_store.pop(type(child), None)


@contextmanager
def _without_torch_warnings() -> Iterator[None]:
    """TorchScript's deprecation is known here, and what else it warns of while compiling is answered by the check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
