"""The rules of docs/architecture.md: what each folder may import, how large it is, and where each library is used."""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from tests.support.paths import REPOSITORY

# A folder imports only from itself and from folders after it in its package. A dot is the files at the root of a
# package; the processes (run.py) stand above them.
FOLDERS = """
rl_hotswap: cli . launcher
actor: run session . canary prefetch versions rollouts environments acting loading sandbox verification watching guard
learner: run training importers sb3 publishing export export/inputs export/torchscript ppo ppo/gradients networks .
shared: transport store run process engines engines/row_compiler scripting operators rollouts policy files .
"""
LAYERS = {
    package: tuple(str(PurePosixPath(package, folder)) for folder in folders.split())
    for package, folders in (line.split(":") for line in FOLDERS.strip().splitlines())
}
PACKAGES_BELOW = {
    "shared": set(),
    "actor": {"shared"},
    "learner": {"shared"},
    "rl_hotswap": {"actor", "learner", "shared"},
    "scripts": {"rl_hotswap", "actor", "learner", "shared"},
}
# Places in shared/ that one side alone reaches, with the reason.
ONE_SIDED = {
    "shared/deprecation.py": "names of the last release exist in every package",
    "shared/engines/": "engines stay together: each implements shared/engines/engine.py, or compiles for one",
    "shared/policy/output_bounds.py": "the compiler and the action check agree on it",
    "shared/store/authenticity.py": "actors and commands check it; it belongs to the format of a version",
    "shared/transport/": "the ends of one protocol stay together: each transport passes one contract suite",
}
LIBRARIES = {  # docs/architecture.md has the same list
    "zmq": {"shared/transport/"},
    "watchdog": {"actor/watching/observer_events.py"},
    "inotify_simple": {"actor/watching/directory_events.py"},
    # TorchScript is deprecated upstream: one engine and one folder can replace it.
    "torch.jit": {
        *("shared/scripting/", "shared/engines/torchscript.py", "scripts/benchmarks/"),
        "scripts/fault_injection/rare_programs.py",
        "scripts/conformance/no_torchscript/",
    },
    "executorch": {"shared/engines/executorch.py", "learner/export/executorch_export.py"},
    "llvmlite": {"shared/engines/row_compiler/"},
    # One console escapes the texts of others.
    "rich.console": {"rl_hotswap/launcher/terminal.py", "scripts/"},
    "envpool": {"actor/environments/envpool_environments.py"},
    "stable_baselines3": {"learner/sb3/", "scripts/conformance/", "scripts/benchmarks/"},
    "sb3_contrib": {"learner/sb3/", "scripts/conformance/", "scripts/benchmarks/"},
    "torchrl": {"learner/importers/torchrl.py", "scripts/conformance/", "scripts/benchmarks/"},
    "tensordict": {"learner/importers/torchrl.py", "scripts/conformance/", "scripts/benchmarks/"},
    "fsspec": {"shared/store/remote_files.py"},
    "safetensors": {"shared/policy/weights.py"},
    "onnxruntime": {"shared/engines/onnx_session.py", "scripts/benchmarks/"},
    "blake3": {"shared/files/digests.py"},
    "tenacity": {"shared/retry.py"},
    "tensorboard": {"learner/training/training_observer.py"},
    "ray": {"learner/importers/rllib.py", "scripts/conformance/"},
}
MAX_MODULES, MAX_LINES, MAX_NOUN_CLAUSES = 14, 350, 9
_NOUN_CLAUSE = re.compile(r"^(What|Whether|Whoever|Who|Where|How|That)\b(?!.*\?)")
_OLD_NAMES = re.compile(
    r"\b(scout|mailbox|rung|ladder|climb|deeds?|scene|shelf|rivals?|spoilt|incarnation|stumbled?|told of"
    r"|right of way)\b",
    re.IGNORECASE,
)
# Keys of formats that other programs read, and names of the last release.
_OLD_NAMES_ALLOWED = Counter(
    {
        ("actor/loading/loaded_policy.py", "rung"): 2,
        ("shared/policy/manifest.py", "rung"): 1,
        ("shared/rollouts/rollout.py", "incarnation"): 1,
        ("shared/transport/messages.py", "incarnation"): 1,
    }
)


@cache
def _modules() -> dict[str, Path]:
    """Return every module of the product by its dotted name, packages' ``__init__`` apart."""
    paths = (path for package in PACKAGES_BELOW for path in sorted((REPOSITORY / package).rglob("*.py")))
    return {".".join(_relative(path)[:-3].split("/")): path for path in paths if path.name != "__init__.py"}


def _relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _imports(path: Path) -> frozenset[str]:
    """Return the dotted name of each import at any depth. A use of ``torch.jit`` counts as its import."""
    return frozenset(_imports_in(_tree(path)))


def _imports_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, "imports are absolute"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Attribute(value=ast.Name(id="torch"), attr="jit"):
                yield "torch.jit"


@cache
def _edges() -> dict[str, frozenset[str]]:
    """Return the modules that each module imports."""
    known = _modules()
    return {
        name: frozenset(
            module
            for found in _imports(path)
            for module in (found, found.rpartition(".")[0])
            if module in known and module != name
        )
        for name, path in known.items()
    }


def _layer(module: str) -> str:
    package, *rest = module.split(".")
    return f"{package}/run" if rest == ["run"] else "/".join([package, *rest[:-1]])


def test_only_one_module_prints() -> None:
    """It escapes the texts of others. The help of the command is our own text."""
    printing = {
        _relative(path)
        for path in _modules().values()
        if not _relative(path).startswith("scripts/")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"shared/process/terminal.py", "rl_hotswap/cli/main.py"}


def test_packages_import_only_packages_below_them() -> None:
    for module, imported in _edges().items():
        package = module.split(".")[0]
        allowed = PACKAGES_BELOW[package] | {package}
        assert {name.split(".")[0] for name in imported} <= allowed, module


@pytest.mark.parametrize("package", LAYERS)
def test_folders_import_only_folders_after_them(package: str) -> None:
    order = {layer: place for place, layer in enumerate(LAYERS[package])}
    for module, imported in _edges().items():
        if module.split(".")[0] != package:
            continue
        for other in imported:
            if other.split(".")[0] == package:
                assert order[_layer(module)] <= order[_layer(other)], f"{module} imports {other}"


def test_folders_form_no_cycle() -> None:
    """The order above proves it for the packages; this covers scripts too."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module, imported in _edges().items():
        graph[_layer(module)] |= {_layer(other) for other in imported} - {_layer(module)}
    while leaves := [layer for layer, below in graph.items() if not below]:
        for leaf in leaves:
            del graph[leaf]
        for below in graph.values():
            below -= set(leaves)
    assert not graph, dict(graph)


def test_shared_holds_only_modules_that_both_sides_reach() -> None:
    users: dict[str, set[str]] = defaultdict(set)
    for module, imported in _edges().items():
        for other in imported:
            users[other].add(module)

    def sides(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
        found: set[str] = set()
        for user in users[module] - seen:
            package = user.split(".")[0]
            found |= sides(user, seen | {module}) if package == "shared" else {package}
        return found

    shared = [module for module in _modules() if module.startswith("shared.")]
    one_sided = {_relative(_modules()[module]) for module in shared if not {"actor", "learner"} <= sides(module)}
    shims = {_relative(_modules()[module]) for module in shared if "shared.deprecation" in _edges()[module]}
    assert [path for path in sorted(one_sided - shims) if not path.startswith(tuple(ONE_SIDED))] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    for path in _modules().values():
        if any(found == library or found.startswith(library + ".") for found in _imports(path)):
            assert _relative(path).startswith(tuple(LIBRARIES[library])), _relative(path)


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
def test_every_import_of_torch_jit_is_found(text: str) -> None:
    assert any(found == "torch.jit" or found.startswith("torch.jit.") for found in _imports_in(ast.parse(text)))


def test_folders_and_files_are_small() -> None:
    sizes = Counter(path.parent for path in _modules().values() if not _relative(path).startswith("scripts/"))
    assert {_relative(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}
    lengths = {_relative(path): len(path.read_text().splitlines()) for path in _modules().values()}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_every_folder_says_what_it_is() -> None:
    for folder in {path.parent for path in _modules().values()}:
        assert ast.get_docstring(_tree(folder / "__init__.py")), _relative(folder)


def test_prose_is_plain() -> None:
    clauses, old = [], Counter[tuple[str, str]]()
    for path in _modules().values():
        text = path.read_text()
        old.update((_relative(path), word.lower()) for word in _OLD_NAMES.findall(text))
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node)
                if doc and _NOUN_CLAUSE.match(doc):
                    clauses.append(f"{_relative(path)}: {doc.splitlines()[0]}")
    assert len(clauses) <= MAX_NOUN_CLAUSES, clauses
    assert old <= _OLD_NAMES_ALLOWED, old - _OLD_NAMES_ALLOWED


@pytest.mark.parametrize(
    "module",
    [
        "actor.run",
        "actor.session.acting_session",
        "learner.run",
        "rl_hotswap.cli.main",
        "rl_hotswap.cli.train",
        "rl_hotswap.launcher.supervisor",
        "shared.engines.importable",
        "shared.engines.llvm",
        "shared.engines.onnx",
        "shared.policy.probe",
        "shared.policy.program_digest",
    ],
)
def test_modules_that_start_fast_do_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_the_native_actor_has_the_layout_of_its_clang_format_file() -> None:
    sources = [path for path in (REPOSITORY / "actor" / "native").rglob("*") if path.suffix in (".cpp", ".h", ".hpp")]
    assert all(len(path.read_text().splitlines()) <= MAX_LINES for path in sources)
    folders = Counter(path.parent for path in sources if path.suffix == ".cpp")
    assert max(folders.values()) <= MAX_MODULES, folders
    program = Path(sys.executable).parent / "clang-format"
    if not program.exists():
        pytest.skip("needs clang-format (extra dev)")
    subprocess.run([program, "--dry-run", "--Werror", *sources], check=True)
