"""Import paths of the last release, which work for one more release with a DeprecationWarning."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module


def moved(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a module whose ``names`` moved (name -> ``new.module:NewName``)."""

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, current = names[name].partition(":")
        warnings.warn(f"{module}.{name} is deprecated; use {home}.{current}", DeprecationWarning, stacklevel=2)
        value: object = getattr(import_module(home), current)
        return value

    return get
