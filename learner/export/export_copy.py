"""The copy of a module that is exported: what trains, or belongs to somebody else, is never touched."""

import copy

from torch import nn

from shared.errors import ExportError


def copy_for_export(module: nn.Module) -> nn.Module:
    """On the CPU, in eval mode, without gradients. Raises ExportError."""
    try:
        return copy.deepcopy(module).cpu().eval().requires_grad_(False)
    except Exception as error:  # a policy's own code may raise anything
        raise ExportError(f"the policy cannot be copied: {type(error).__name__}: {error}") from error
