"""The import rule: scripts -> actor, learner -> shared; actor and learner never each other. And who may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

_MAY_IMPORT = {
    "shared": {"shared"},
    "actor": {"actor", "shared"},
    "learner": {"learner", "shared"},
    "rl_hotswap": {"rl_hotswap", "actor", "learner", "shared"},
    "scripts": {"scripts", "rl_hotswap", "actor", "learner", "shared"},
}
_ONLY_IN = {
    "zmq": {"shared/transport/zmq_transport.py", "shared/transport/zmq_curve.py"},
    "watchdog": {"actor/watching/observer_events.py"},
    "inotify_simple": {"actor/watching/inotify_events.py"},
    # TorchScript is deprecated upstream: its successor must be able to take its place by one engine and one method.
    # The third is no user of ours: a loop as people write it, to be compared with.
    "torch.jit": {
        "shared/scripting/scripting.py",
        "shared/engines/torchscript.py",
        "scripts/benchmarks/bare_torchscript.py",
    },
    "llvmlite": {
        *(
            f"shared/engines/row_compiler/{name}.py"
            for name in ("block_rows", "emitter", "machine_code", "row_code", "rows")
        ),
        *(f"shared/engines/row_compiler/{name}.py" for name in ("single_row", "vector_math")),
    },
    "ray": set(),
    "envpool": {"actor/environments/envpool_environments.py"},
}


def _sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def _imports(text: str) -> Iterator[str]:
    """Dotted names of everything imported, at any depth; a use of ``torch.jit`` counts as an import of it."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, "imports are absolute"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Attribute(value=ast.Name(id="torch"), attr="jit"):
                yield "torch.jit"


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _importers(module: str, texts: dict[str, str]) -> set[str]:
    return {
        name
        for name, text in texts.items()
        if any(found == module or found.startswith(module + ".") for found in _imports(text))
    }


@pytest.mark.parametrize("package", _MAY_IMPORT)
def test_packages_import_only_what_they_may(package: str) -> None:
    sources = _sources(package)
    assert sources
    for path in sources:
        ours = {found.split(".")[0] for found in _imports(path.read_text())} & {*_MAY_IMPORT, "tests"}
        assert ours <= _MAY_IMPORT[package], _name(path)


@pytest.mark.parametrize("library", _ONLY_IN)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    texts = {_name(path): path.read_text() for package in _MAY_IMPORT for path in _sources(package)}
    assert _importers(library, texts) == _ONLY_IN[library]


@pytest.mark.parametrize("library", ["stable_baselines3", "sb3_contrib"])
def test_nothing_but_its_adapter_needs_stable_baselines3(library: str) -> None:
    texts = {_name(path): path.read_text() for package in _MAY_IMPORT for path in _sources(package)}
    theirs = ("learner/sb3/", "scripts/conformance/sb3_", "scripts/benchmarks/")
    assert all(name.startswith(theirs) for name in _importers(library, texts))


@pytest.mark.parametrize(
    "text",
    [
        "import torch.jit",
        "import torch.jit as j",
        "from torch import jit",
        "from torch.jit import script",
        "def f():\n    import torch\n    return torch.jit.load('x')",
    ],
)
def test_every_way_to_torch_jit_is_seen(text: str) -> None:
    assert _importers("torch.jit", {"file": text}) == {"file"}


@pytest.mark.parametrize(
    "module",
    [
        "actor.run",
        "actor.session.acting_session",
        "shared.engines.llvm",
        "shared.engines.onnx",
        "learner.run",
        "rl_hotswap.cli.train",
        "rl_hotswap.launcher.supervisor",
    ],
)
def test_what_has_to_start_at_once_does_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_no_file_is_long() -> None:
    """One file, one concept: the one that grows past this has become two."""
    for package in _MAY_IMPORT:
        for path in _sources(package):
            assert len(path.read_text().splitlines()) <= 425, _name(path)
