"""A module as its owner has it: a class path with a state dict, and examples of its arguments. No pickle runs."""

import importlib
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import ConfigurationError, WeightsError

_EXAMPLE = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>(\d+(,\d+)*)?)\]")


def build_module(class_path: str, arguments: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """Import ``pkg.mod:Class``, construct it with ``arguments``, and give it the state dict in ``weights``; eval mode.

    Naming a class is the consent to import it. Raises ConfigurationError where there is no such class or it cannot be
    constructed, WeightsError where the weights are not its own.
    """
    cls = _find_class(class_path)
    try:
        module = cls(**arguments)
    except Exception as error:  # a class of somebody's own may raise anything
        raise ConfigurationError(f"{class_path} cannot be constructed: {type(error).__name__}: {error}") from error
    if weights is not None:
        try:
            module.load_state_dict(read_state_dict(weights))
        except RuntimeError as error:
            raise WeightsError(f"{weights} does not fit {class_path}: {error}") from error
    return module.eval()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """What ``torch.save(module.state_dict(), path)`` wrote. Raises WeightsError for anything else, unread."""
    found = _load_plain(path)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: expected a state dict, found a {type(found).__name__}")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path}: expected a state dict, tensors by name; {others[0]!r} is none. From a checkpoint, save the state "
            "dict alone: torch.save(checkpoint['model'], path)"
        )
    return dict(found)


def example_arguments(specs: Sequence[str]) -> tuple[Any, ...]:
    """Arguments from ``"float32[3,4]"`` for each, or from one ``.pt`` file with a tuple of them.

    Raises ConfigurationError for what is neither.
    """
    if len(specs) == 1 and specs[0].endswith(".pt"):
        found = _load_plain(Path(specs[0]))
        return tuple(found) if isinstance(found, tuple | list) else (found,)
    return tuple(_example(spec) for spec in specs)


def _find_class(class_path: str) -> type[nn.Module]:
    module_name, _, name = class_path.partition(":")
    if not module_name or not name:
        raise ConfigurationError(f"expected a class path like pkg.mod:Class, found {class_path!r}")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the module's own code
        raise ConfigurationError(f"{class_path} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigurationError(f"{class_path} is no subclass of torch.nn.Module")
    return found


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


def _load_plain(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and plain containers. If it is a module saved whole, save its state dict "
            "instead (torch.save(module.state_dict(), path)), or trust whoever saved it: --trust-pickle"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
