"""Policies as a class path and constructor arguments, without pickle. Only modules that are trusted by name load."""

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shared.errors import NotTrusted, ProgramError
from shared.files.strict_json import repeated_key
from shared.operators.program_trust import is_trusted_module
from shared.policy.weights import check_layout

if TYPE_CHECKING:
    from torch import Tensor, nn

Weights = Mapping[str, "np.ndarray | Tensor"]
_CLASS_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
MAX_BYTES = 2**20


class ImportablePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class path ``"package.module:Class"`` and the constructor's keyword arguments."""

    class_path: str
    arguments: dict[str, Any] = {}


def encode_importable(importable: ImportablePolicy) -> bytes:
    """Return indented JSON in a deterministic order."""
    return msgspec.json.format(msgspec.json.encode(importable, order="deterministic"), indent=1)


def load_importable(data: bytes, weights: Weights, trusted_prefixes: Sequence[str]) -> "nn.Module":
    """Import and construct the class, load ``weights``, and return the module in eval mode.

    A prefix ``a.b`` trusts ``a.b`` and ``a.b.*``. Raises NotTrusted for other modules and for a class that is not an
    ``nn.Module``, ProgramError when the import or the constructor fails, and WeightsError.
    """
    from shared.engines.eager import module_arrays
    from shared.engines.torch_arrays import weight_array

    importable = _decode(data)
    cls = _find_class(importable.class_path, trusted_prefixes)
    try:
        module: nn.Module = cls(**importable.arguments)
    except (Exception, SystemExit) as error:  # a policy's own code may raise anything, and sys.exit is no way out
        raise ProgramError(
            f"{importable.class_path} could not be constructed: {type(error).__name__}: {error}"
        ) from error
    mine = module_arrays(module)
    arrays = {name: found if isinstance(found, np.ndarray) else weight_array(found) for name, found in weights.items()}
    check_layout(mine, arrays)
    for name, array in mine.items():
        np.copyto(array, arrays[name], casting="no")
    return module.eval().requires_grad_(False)


def _decode(data: bytes) -> ImportablePolicy:
    if len(data) > MAX_BYTES:
        raise ProgramError(f"expected an importable policy of at most {MAX_BYTES} bytes, found {len(data)}")
    try:
        importable = msgspec.json.decode(data, type=ImportablePolicy)
        key = repeated_key(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProgramError(f"not an importable policy: {error}") from error
    if key is not None:
        raise ProgramError(f"not an importable policy: the key {key!r} occurs twice in one object")
    return importable


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
    except (Exception, SystemExit) as error:  # importing runs the module's own code
        raise ProgramError(f"{class_path} could not be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NotTrusted(f"{class_path} is not a subclass of torch.nn.Module")
    # The namespace of a trusted module also holds names that it imported from elsewhere.
    _check_trusted(found.__module__, class_path, trusted_prefixes)
    return found


def _check_trusted(module: str, class_path: str, trusted_prefixes: Sequence[str]) -> None:
    if not is_trusted_module(module, trusted_prefixes):
        allowed = ", ".join(trusted_prefixes) or "none"
        raise NotTrusted(
            f"allow it with --trust-module {module} if you trust its source: {class_path} imports {module}, and the "
            f"trusted modules are: {allowed}"
        )
