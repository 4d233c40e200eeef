"""torch.jit.script, and torch.jit.trace where it fails.

torch reports no error if it scripts a file that was edited after its import, or traces a loop over a shape for one
size. So each program has to pass the caller's check.
"""

import copy
import io
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves

from shared.errors import PolicyError, ScriptingError
from shared.policy.manifest import MethodReport
from shared.scripting.script_modules import without_torch_warnings

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

    Return the first program that passes ``check``, or None, and reports of the failed methods, in torch's own words.
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


def save_program(module: ScriptModule) -> bytes:
    """Return an archive like ``save_archive`` without the values of parameters and buffers: one NaN or zero for each.

    All versions of a program have this archive; their weights file has the values. ``module`` must not run meanwhile.
    """
    tensors = [*module.parameters(), *module.buffers()]
    values = [tensor.data for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            filler = float("nan") if value.is_floating_point() or value.is_complex() else 0
            tensor.data = torch.full((), filler, dtype=value.dtype).expand(value.shape)
        return save_archive(module)
    finally:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data = value


def load_archive(data: bytes) -> ScriptModule:
    """Return the module of an archive that this process has made."""
    module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    assert isinstance(module, ScriptModule)
    return module


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
    """Call torch.jit.trace with positional or keyword arguments. Raises ScriptingError for a baked-in decision."""
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


class _Holder(nn.Module):
    def __init__(self, pieces: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, piece in pieces.items():
            self.add_module(name, piece)


def script_around(pieces: Mapping[str, nn.Module], forward: str, names: Mapping[str, object]) -> ScriptModule:
    """Return a scripted module that holds ``pieces``, with the source ``forward``, which refers to ``names``."""
    torch.jit._recursive.concrete_type_store.type_store.pop(_Holder, None)  # each module has its own type
    holder = torch.jit.script(_Holder(pieces))
    holder._c._define(holder._concrete_type, forward, {"torch": torch, **names}.get)
    return holder


def operations(program: ScriptModule) -> list[str]:
    """Return the names of the operations of a traced program; another loop count or branch changes them."""
    return [str(node.kind()) for node in program.inlined_graph.nodes()]


def _forget_types(module: nn.Module) -> None:
    """Drop the types that torch made of the classes in ``module``: after a failure they are incomplete."""
    store = torch.jit._recursive.concrete_type_store
    for child in module.modules():
        store.type_store.pop(type(child), None)


_CONVERSIONS = frozenset(
    ("__bool__", "is_nonzero", "__contains__", "equal", "allclose", "__int__", "__float__", "__index__", "item")
)
_EXITS = frozenset(("tolist", "numpy", "__array__"))  # of all values at once
_MOST_DECISIONS = 64
_FAR = 1000  # beyond the numbers that networks compare with; a loop of this length still ends soon


_Answer = bool | int | float | list[Any] | np.ndarray


@dataclass(frozen=True)
class _Decision:
    answer: _Answer
    place: str

    @property
    def kind(self) -> str:
        if isinstance(self.answer, bool):
            return "boolean"
        return "number" if isinstance(self.answer, int | float) else "list or an array"

    def others(self) -> tuple[_Answer, ...]:
        if isinstance(self.answer, list):  # nested as the tensor was
            return tuple(other.tolist() for other in _others(np.asarray(self.answer)))
        if isinstance(self.answer, np.ndarray):
            return _others(self.answer)
        if isinstance(self.answer, bool):
            return (not self.answer,)
        return (self.answer + 1, self.answer - 1, self.answer + _FAR, -self.answer - _FAR)


def _others(array: np.ndarray) -> tuple[np.ndarray, ...]:
    if array.dtype == np.bool_:
        return (~array,)
    moved = (array + 1, array - 1, array + _FAR, -array - _FAR)
    return tuple(np.asarray(other).astype(array.dtype) for other in moved)


def refuse_baked_decisions(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ScriptingError if a trace of this call would keep a decision that depends on the inputs.

    ``module`` is called several times, with copies of its arguments. Decisions in scripted pieces and in torch's own
    layers are not watched. An exception of the module itself is left to the trace.
    """

    def run(watch: _Watch) -> Any:
        own_args, own_kwargs = copy.deepcopy((args, dict(kwargs)))
        with torch.no_grad(), watch:
            return module(*own_args, **own_kwargs)

    constants = _constants(module)
    first = _Watch(constants)
    try:
        result = run(first)
    except Exception:  # noqa: BLE001 - a module's own code may raise anything
        return
    for number, decision in enumerate(first.decisions[:_MOST_DECISIONS]):
        if any(_matters(run, _Watch(constants, number, other), first, result) for other in decision.others()):
            raise ScriptingError(
                "a branch or a value was baked in: "
                f"Converting a tensor to a Python {decision.kind} might cause the trace to be incorrect, says torch, "
                f"and {decision.place} does so with a tensor that depends on the inputs; "
                "script keeps decisions, and so does torch.where"
            )


def _matters(run: Callable[["_Watch"], Any], watch: "_Watch", first: "_Watch", expected: Any) -> bool:
    try:
        found = run(watch)
    except Exception:  # noqa: BLE001 - a guard of the module
        return False
    return watch.calls != first.calls or not _same(expected, found)


class _Watch(TorchFunctionMode):
    """Records the functions of torch that one run calls, and its decisions on data.

    ``number`` is the decision to replace by ``answer``. A tensor is data unless it was made from ``constants`` and
    plain numbers only: tensors that scripted pieces return are not watched.
    """

    def __init__(self, constants: Iterable[Tensor], number: int | None = None, answer: Any = None) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.decisions: list[_Decision] = []
        self._own = {id(tensor) for tensor in constants}
        self._constant = {id(tensor): tensor for tensor in constants}  # kept, so that no other tensor gets its id
        self._number = number
        self._answer = answer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        leaves = tree_leaves((args, kwargs))
        self.calls.append((name, *map(self._described, leaves)))
        if all(id(leaf) in self._constant for leaf in leaves if isinstance(leaf, Tensor)):
            self._constant |= {id(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
            return result
        if args and (name == "__setitem__" or name.endswith("_")):
            self._constant.pop(id(args[0]), None)  # written into
        is_number = name in _CONVERSIONS | _EXITS and isinstance(result, bool | int | float)
        if not is_number and not (name in _EXITS and isinstance(result, list | np.ndarray)):
            return result
        self.decisions.append(_Decision(result, _place()))
        return self._answer if len(self.decisions) - 1 == self._number else result

    def _described(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return id(leaf) if id(leaf) in self._own else Tensor
        return leaf if isinstance(leaf, bool | int | float | str | torch.dtype) else type(leaf)


def _constants(module: nn.Module) -> list[Tensor]:
    attributes = (value for piece in module.modules() for value in vars(piece).values() if isinstance(value, Tensor))
    return [*itertools.chain(module.parameters(), module.buffers(), attributes)]


def _place() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "shared"):
        frame = frame.f_back
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _same(a: Any, b: Any) -> bool:
    (leaves, structure), (others, other_structure) = tree_flatten(a), tree_flatten(b)
    return structure == other_structure and all(map(_equal, leaves, others))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 - NaN equals NaN here
    return type(a) is type(b)
