"""A policy as a class path and constructor arguments: no pickle, and only what a person allowed by name is imported."""

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shared.errors import NotTrusted, ProgramError
from shared.policy.weights import check_layout

if TYPE_CHECKING:
    from torch import Tensor, nn

Weights = Mapping[str, "np.ndarray | Tensor"]
_CLASS_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
MAX_BYTES = 2**20


class ImportablePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``class_path`` is ``"package.module:Class"``; ``arguments`` are the constructor's keyword arguments."""

    class_path: str
    arguments: dict[str, Any] = {}


def encode_importable(importable: ImportablePolicy) -> bytes:
    """Indented JSON in a deterministic order."""
    return msgspec.json.format(msgspec.json.encode(importable, order="deterministic"), indent=1)


def importable_digest(data: bytes) -> str:
    """The program's digest: SHA-256 of the definition, which holds no weights."""
    return hashlib.sha256(data).hexdigest()


def load_importable(data: bytes, weights: Weights, trusted_prefixes: Sequence[str]) -> "nn.Module":
    """Import the class, construct it and give it ``weights``; the module is in eval mode.

    A prefix ``a.b`` allows the modules ``a.b`` and ``a.b.*``. Raises NotTrusted for anything else and for a class that
    is no ``nn.Module``, ProgramError where importing or constructing fails, WeightsError where weights do not fit.
    """
    importable = _decode(data)
    cls = _find_class(importable.class_path, trusted_prefixes)
    try:
        module: nn.Module = cls(**importable.arguments)
    except Exception as error:  # a policy's own code may raise anything
        raise ProgramError(
            f"{importable.class_path} could not be constructed: {type(error).__name__}: {error}"
        ) from error
    _fill(module, weights)
    return module.eval().requires_grad_(False)


def _decode(data: bytes) -> ImportablePolicy:
    if len(data) > MAX_BYTES:
        raise ProgramError(f"an importable policy has at most {MAX_BYTES} bytes; found {len(data)}")
    try:
        return msgspec.json.decode(data, type=ImportablePolicy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProgramError(f"not an importable policy: {error}") from error


def _find_class(class_path: str, trusted_prefixes: Sequence[str]) -> "type[nn.Module]":
    from torch import nn

    match = _CLASS_PATH.fullmatch(class_path)
    if match is None:
        raise ProgramError(f"expected a class path like package.module:Class, found {class_path!r}")
    _check_trusted(match["module"], class_path, trusted_prefixes)
    try:
        found: Any = importlib.import_module(match["module"])
        for name in match["name"].split("."):
            found = getattr(found, name)
    except Exception as error:  # importing runs the module's own code
        raise ProgramError(f"{class_path} could not be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NotTrusted(f"{class_path} is no subclass of torch.nn.Module")
    # A trusted module's namespace also holds what it imported from elsewhere.
    _check_trusted(found.__module__, class_path, trusted_prefixes)
    return found


def _check_trusted(module: str, class_path: str, trusted_prefixes: Sequence[str]) -> None:
    if not any(module == prefix or module.startswith(f"{prefix}.") for prefix in trusted_prefixes if prefix):
        allowed = ", ".join(trusted_prefixes) or "none"
        raise NotTrusted(
            f"{class_path} would import {module}, and the modules allowed are: {allowed}. "
            f"Where you trust its source, allow it by name (--trust-module {module})."
        )


def _fill(module: "nn.Module", weights: Weights) -> None:
    from shared.engines.eager import module_tensors

    mine = {name: tensor.numpy() for name, tensor in module_tensors(module).items()}
    arrays = {name: np.asarray(tensor) for name, tensor in weights.items()}
    check_layout(mine, arrays)
    for name, array in mine.items():
        np.copyto(array, arrays[name], casting="no")
