"""The objects that users pass as a module: modules, compiled modules, and programs of ``torch.export``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from shared.errors import ConfigurationError, ExportError, one_line

_MOST_CHARACTERS = 80


def module_of(given: object) -> nn.Module:
    """Return the module that ``given`` is, wraps or holds. Raises ConfigurationError and ExportError for any other."""
    if isinstance(given, torch.export.ExportedProgram):
        program = given.module()
        for name in ("train", "eval"):  # torch replaces them by functions that raise; a program has no other mode
            vars(program).pop(name, None)
        return program
    if isinstance(given, nn.Module):
        # Only torch.compile sets the attribute: importing its class takes a second.
        module: nn.Module = getattr(given, "_orig_mod", given)
        _check_pieces(module)
        return module
    if isinstance(given, type):
        raise ConfigurationError(f"pass an instance of the module, not its class: expected {given.__qualname__}(...)")
    if isinstance(given, Mapping):
        raise ConfigurationError(
            "build the module, call module.load_state_dict(...), and pass the module: expected a torch.nn.Module, "
            f"found a state dict ({type(given).__name__}), which holds no code"
        )
    found = one_line(repr(given), _MOST_CHARACTERS)
    raise ConfigurationError(f"pass a torch.nn.Module: expected an instance of it, found {found}")


def _check_pieces(module: nn.Module) -> None:
    """Raise ExportError for a compiled piece, and for tensors that no version can hold."""
    for name, piece in module.named_modules():
        if name and hasattr(piece, "_orig_mod"):
            raise ExportError(
                f"put {one_line(name, _MOST_CHARACTERS)}._orig_mod in its place, or export before torch.compile: "
                "a compiled piece cannot be made part of a program"
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not is_lazy(tensor) and _holds_nan(tensor):
            raise ExportError(
                f"load finite weights: {one_line(name, _MOST_CHARACTERS)} holds NaN, "
                "and actors refuse weights that are not finite"
            )


def _holds_nan(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isnan().any())


def positional(example_args: object) -> tuple[Any, ...]:
    """Return the positional arguments of the example. Raises ConfigurationError for anything but a sequence."""
    if isinstance(example_args, list | tuple):
        return tuple(example_args)
    found = type(example_args).__name__
    raise ConfigurationError(
        f"pass the positional arguments as a tuple, such as (x,): expected a tuple as example_args, found a {found}"
    )


def has_fixed_sizes(given: object) -> bool:
    """Return True for a program of ``torch.export`` that was made without dynamic shapes."""
    return isinstance(given, torch.export.ExportedProgram) and not given.range_constraints
