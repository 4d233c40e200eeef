"""TorchScript modules among others. Unlike ``scripting``, this module calls nothing of TorchScript."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def is_script_module(module: nn.Module) -> bool:
    """Return True for a scripted or traced module."""
    return isinstance(module, torch.jit.ScriptModule)


@contextmanager
def without_torch_warnings() -> Iterator[None]:
    """Suppress warnings: the deprecation of TorchScript is known, and the check of a program covers the other ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
