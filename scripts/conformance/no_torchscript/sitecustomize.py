"""TorchScript made to fail: its functions raise, and the modules of this project that use them cannot be imported.

Python imports a module of this name when it starts, so child processes have no TorchScript either.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_USERS = ("shared.scripting.scripting", "shared.engines.torchscript", "learner.export.torchscript")
_FUNCTIONS = (
    *("script", "trace", "trace_module", "load", "save", "freeze", "optimize_for_inference", "set_fusion_strategy"),
    *("CompilationUnit", "jit_module_from_flatbuffer", "save_jit_module_to_flatbuffer"),
)


class _NoTorchScript:
    """Finder of modules, in front of all others."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        if name in _USERS:
            raise ImportError(f"{name} uses TorchScript, which this process does not have")
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _load(load, module)  # type: ignore[method-assign]
        return spec


def _load(load: Callable[[ModuleType], None], torch: ModuleType) -> None:
    load(torch)
    for name in _FUNCTIONS:
        setattr(torch.jit, name, _failing(name))


def _failing(name: str) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> None:  # noqa: ARG001
        raise RuntimeError(f"torch.jit.{name} is called, and this process does not have TorchScript")

    return fail


sys.meta_path.insert(0, _NoTorchScript())
