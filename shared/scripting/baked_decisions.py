"""Detection of decisions on data that a trace would bake in: the module runs again with one decision reversed.

torch warns of such decisions ("Converting a tensor to a Python boolean might cause the trace to be incorrect"), and in
the same words of comparisons of sizes. Outside a trace sizes are plain numbers, so a conversion to a Python value here
comes from data. It matters if the reversed decision makes the module call other functions of torch or return another
result. If the reversed decision raises, it is a guard, which a trace may omit.
"""

import copy
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves

from shared.errors import ScriptingError

_CONVERSIONS = frozenset(
    ("__bool__", "is_nonzero", "__contains__", "equal", "allclose", "__int__", "__float__", "__index__", "item")
)
_MOST_DECISIONS = 64
_FAR = 1000  # beyond the numbers that networks compare with; a loop of this length still ends soon


@dataclass(frozen=True)
class _Decision:
    answer: bool | int | float
    place: str

    def others(self) -> tuple[bool | int | float, ...]:
        if isinstance(self.answer, bool):
            return (not self.answer,)
        return (self.answer + 1, self.answer - 1, self.answer + _FAR, -self.answer - _FAR)


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
            kind = "boolean" if isinstance(decision.answer, bool) else "number"
            raise ScriptingError(
                f"a branch or a value was baked in: Converting a tensor to a Python {kind} might cause the trace to be "
                f"incorrect, says torch, and {decision.place} does so with a tensor that depends on the inputs; "
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
        if name not in _CONVERSIONS or not isinstance(result, bool | int | float):
            return result
        self.decisions.append(_Decision(result, _place()))
        return self._answer if len(self.decisions) - 1 == self._number else result

    def _described(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return id(leaf) if id(leaf) in self._own else Tensor
        return leaf if isinstance(leaf, bool | int | float | str | torch.dtype) else type(leaf)


def _constants(module: nn.Module) -> list[Tensor]:
    """Return parameters, buffers, and tensors that are plain attributes."""
    attributes = (value for piece in module.modules() for value in vars(piece).values() if isinstance(value, Tensor))
    return [*itertools.chain(module.parameters(), module.buffers(), attributes)]


def _place() -> str:
    """Return the line of the module's own code that converts a tensor."""
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
