"""The objects that users pass as a module: modules, compiled modules, and programs of ``torch.export``."""

from collections.abc import Mapping

import torch
from torch import nn

from shared.errors import ConfigurationError, one_line

_MOST_CHARACTERS = 80


def module_of(given: object) -> nn.Module:
    """Return the module that ``given`` is, wraps or holds. Raises ConfigurationError for any other object."""
    if isinstance(given, torch.export.ExportedProgram):
        module = given.module()
        for name in ("train", "eval"):  # torch replaces them by functions that raise; a program has no other mode
            vars(module).pop(name, None)
        return module
    if isinstance(given, nn.Module):
        # Only torch.compile sets the attribute: importing its class takes a second.
        return getattr(given, "_orig_mod", given)
    if isinstance(given, type):
        raise ConfigurationError(f"pass an instance of the module, not its class: expected {given.__qualname__}(...)")
    if isinstance(given, Mapping):
        raise ConfigurationError(
            "build the module, call module.load_state_dict(...), and pass the module: expected a torch.nn.Module, "
            f"found a state dict ({type(given).__name__}), which holds no code"
        )
    found = one_line(repr(given), _MOST_CHARACTERS)
    raise ConfigurationError(f"pass a torch.nn.Module: expected an instance of it, found {found}")


def has_fixed_sizes(given: object) -> bool:
    """Return True for a program of ``torch.export`` that was made without dynamic shapes."""
    return isinstance(given, torch.export.ExportedProgram) and not given.range_constraints
