"""A module that was saved whole, ``torch.save(model, path)``: a pickle, and so a program that runs as it is read.

Nothing that this project publishes is one. It is read only where a person said so, and then exported like any other.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError, NotTrusted, ProgramError

if TYPE_CHECKING:
    from torch import nn


def load_pickled_module(path: Path, *, trust_pickle: bool) -> "nn.Module":
    """The module in eval mode, on the CPU. Without ``trust_pickle`` not a byte is read, and NotTrusted is raised.

    Raises ConfigurationError where there is no such file, ProgramError where it cannot be read or holds something else.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}; expected what torch.save(model, path) wrote")
    if not trust_pickle:
        raise NotTrusted(
            f"{path} would be read as a pickle, which runs whatever code its author put there. "
            "Where you trust its source, allow it (--trust-pickle); a state dict with a class path needs no such trust."
        )
    found = _unpickle(path)

    from torch import nn

    if not isinstance(found, nn.Module):
        raise ProgramError(
            f"{path} holds an object of type {type(found).__name__}, not a module; a state dict is exported with the "
            "class that it belongs to (--module package.module:Class --weights FILE)"
        )
    return found.eval()


def _unpickle(path: Path) -> object:
    import torch

    try:
        found: object = torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:  # pickled by reference: the class is looked up here
        raise ProgramError(
            f"{path} names a class that cannot be imported here: {error}. Put the package that defines it on "
            "PYTHONPATH; a class that was defined in a script's __main__ has to move to a module first."
        ) from error
    except Exception as error:  # a pickle may raise anything
        raise ProgramError(f"{path} could not be read: {type(error).__name__}: {error}") from error
    return found
