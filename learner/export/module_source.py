"""Modules as their owners have them: a class path with a state dict, a pickled module, examples of arguments."""

import importlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import ConfigurationError, NotTrusted, ProgramError, WeightsError

_EXAMPLE = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>(\d+(,\d+)*)?)\]")


def build_module(class_path: str, arguments: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """Return a ``pkg.mod:Class``, or the result of a function, with the state dict in ``weights``.

    Raises ConfigurationError and WeightsError.
    """
    make = _find(class_path)
    try:
        module = make(**arguments)
    except Exception as error:  # a user's class may raise anything
        raise ConfigurationError(f"{class_path} cannot be constructed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"{class_path} returns no torch.nn.Module: found a {type(module).__name__}")
    if weights is not None:
        try:
            module.load_state_dict(read_state_dict(weights))
        except RuntimeError as error:
            raise WeightsError(f"{weights} does not fit {class_path}: {error}") from error
    return module.eval()


def load_pickled_module(path: Path, *, trust_pickle: bool) -> nn.Module:
    """Return the module of ``torch.save(model, path)``, in eval mode, on the CPU. Reading it runs its author's code.

    Raises NotTrusted without ``trust_pickle``, before a byte is read; ConfigurationError if there is no such file;
    ProgramError if the file cannot be read or holds another object.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}; expected a file of torch.save(model, path)")
    if not trust_pickle:
        raise NotTrusted(
            "allow it with --trust-pickle if you trust its source, or export a state dict with its class path: "
            f"{path} would be read as a pickle, which runs whatever code its author put there"
        )
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:  # pickled by reference: the class is looked up here
        raise ProgramError(
            "put the package that defines the class on PYTHONPATH; move a class of a script's __main__ to a module. "
            f"{path} names a class that cannot be imported here: {error}"
        ) from error
    except Exception as error:  # a pickle may raise anything
        raise ProgramError(f"{path} could not be read: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise ProgramError(
            "export a state dict with its class: --module package.module:Class --weights FILE. "
            f"{path} holds an object of type {type(found).__name__}, not a module"
        )
    return found.eval()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the file of ``torch.save(module.state_dict(), path)``. Raises WeightsError for any other; no pickle runs."""
    found = load_plain(path)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: expected a state dict, found a {type(found).__name__}")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            "from a checkpoint, save the state dict alone: torch.save(checkpoint['model'], path). "
            f"{path}: expected tensors by name; {others[0]!r} is no tensor"
        )
    # torch.compile puts the prefix before the names of the module within.
    return {name.removeprefix("_orig_mod."): value for name, value in found.items()}


def example_arguments(specs: Sequence[str]) -> tuple[Any, ...]:
    """Return arguments made of ``"float32[3,4]"`` each, or read from one ``.pt`` file. Raises ConfigurationError."""
    if len(specs) == 1 and specs[0].endswith(".pt"):
        found = load_plain(Path(specs[0]))
        return tuple(found) if isinstance(found, tuple | list) else (found,)
    return tuple(_example(spec) for spec in specs)


def _find(class_path: str) -> Callable[..., object]:
    module_name, _, name = class_path.partition(":")
    if not module_name or not name:
        raise ConfigurationError(f"expected a class path like pkg.mod:Class, found {class_path!r}")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the module's own code
        raise ConfigurationError(f"{class_path} cannot be imported: {type(error).__name__}: {error}") from error
    if isinstance(found, FunctionType) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return found
    raise ConfigurationError(f"{class_path} is no subclass of torch.nn.Module, and no function that returns one")


def _example(spec: str) -> Tensor:
    match = _EXAMPLE.fullmatch(spec.replace(" ", ""))
    dtype = getattr(torch, match["dtype"], None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        raise ConfigurationError(f'expected a tensor like "float32[3,4]", or one .pt file; found {spec!r}')
    shape = [int(n) for n in match["shape"].split(",") if n]
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def load_plain(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "save the state dict of a module, torch.save(module.state_dict(), path), or trust the author of the file: "
            f"--trust-pickle. {path} holds more than tensors and plain containers"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
