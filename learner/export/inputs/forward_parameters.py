"""The parameters of ``forward``: their names, kinds and defaults, and the names of the tensors that they hold."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import UNSET, UnsetType
from torch import nn

from shared.errors import SignatureMismatch
from shared.policy.nested_values import Structure, describe
from shared.policy.signature import Parameter

_Kind = Literal["positional_only", "any", "keyword_only", "args", "kwargs"]
_KINDS: Mapping[Any, _Kind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}


def forward_parameters(module: nn.Module) -> tuple[Parameter, ...]:
    """Return the parameters of ``module.forward``; none where torch does not know them."""
    schema = getattr(module.forward, "schema", None)  # of a scripted or a traced module
    if schema is not None:
        return tuple(
            Parameter(
                argument.name,
                "keyword_only" if argument.kwarg_only else "any",
                _default(argument.default_value) if argument.has_default_value() else UNSET,
            )
            for argument in schema.arguments[1:]
        )
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # native code may have none
        return ()
    return tuple(
        Parameter(
            parameter.name,
            _KINDS[parameter.kind],
            UNSET if parameter.default is inspect.Parameter.empty else _default(parameter.default),
        )
        for parameter in signature.parameters.values()
    )


def _default(value: Any) -> Structure | UnsetType:
    try:
        structure, tensors, _ = describe(value)
    except SignatureMismatch:  # an object of another kind, which no call can pass
        return UNSET
    return UNSET if tensors else structure


def tensor_names(leaf_names: Sequence[str], parameters: Sequence[Parameter]) -> list[tuple[str, str]]:
    """Return the names of each tensor of the arguments: that below its parameter, and its path such as ``args.0.x``."""
    positional = [parameter.name for parameter in parameters if parameter.kind in ("positional_only", "any")]
    found = []
    for path in leaf_names:
        way, _, rest = path.partition(".")
        first, dot, below = rest.partition(".")
        if way == "args" and int(first) < len(positional):
            rest = f"{positional[int(first)]}{dot}{below}"
        elif way == "args":
            rest = path
        found.append((rest, path))
    return found
