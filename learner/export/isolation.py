"""Isolation of an export: the caller's module is copied, and the exporters of torch are silenced."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from torch import nn

from shared.errors import ExportError


def copy_for_export(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode, without gradients. Raises ExportError."""
    try:
        return copy.deepcopy(module).cpu().eval().requires_grad_(False)
    except Exception as error:  # a policy's own code may raise anything
        raise ExportError(f"the module cannot be copied: {type(error).__name__}: {error}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress log lines, warnings and printed programs; the comparison with eager decides about a program."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
