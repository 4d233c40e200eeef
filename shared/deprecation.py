"""Names of the last release, which work for one more release with a DeprecationWarning."""

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


def renamed(owner: str, old: str, current: str) -> property:
    """Return the property ``old`` of the class ``owner``, which warns and gives ``current``."""

    def get(instance: object) -> object:
        warnings.warn(f"{owner}.{old} is deprecated; use {owner}.{current}", DeprecationWarning, stacklevel=2)
        value: object = getattr(instance, current)
        return value

    return property(get, doc=f"Deprecated name of ``{current}``.")
