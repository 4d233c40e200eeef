"""README and docs/ agree with the code: commands parse, imports exist, links lead somewhere."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rl_hotswap
from actor.session.actor_settings import ActorSettings
from learner.training.run_options import LearnerRun
from rl_hotswap.cli.evaluate import EvaluateOptions
from rl_hotswap.cli.export import ExportOptions
from rl_hotswap.cli.inspect import InspectOptions
from rl_hotswap.cli.keys import KeysOptions
from rl_hotswap.cli.main import COMMANDS
from rl_hotswap.cli.rollback import RollbackOptions
from rl_hotswap.cli.train import TrainOptions
from scripts.benchmark import BenchmarkOptions
from scripts.chaos import ChaosOptions
from shared.process.command_line import run_command
from shared.run.environment_description import find_environment
from shared.run.progress import Summary
from tests.support.doc_pages import RUNNABLE, Block, blocks, commands, pages
from tests.support.paths import REPOSITORY
from tests.unit.test_architecture import LAYERS, ONE_SIDED

_README = REPOSITORY / "README.md"
_DOCS = REPOSITORY / "docs"
_PAGES = pages()
_BLOCKS = [block for page in _PAGES for block in blocks(page)]
_OPTIONS: dict[tuple[str, ...], type] = {
    ("rl-hotswap", "train"): TrainOptions,
    ("rl-hotswap", "act"): ActorSettings,
    ("rl-hotswap", "learn"): LearnerRun,
    ("rl-hotswap", "evaluate"): EvaluateOptions,
    ("rl-hotswap", "inspect"): InspectOptions,
    ("rl-hotswap", "export"): ExportOptions,
    ("rl-hotswap", "rollback"): RollbackOptions,
    ("rl-hotswap", "keys"): KeysOptions,
    ("python", "scripts/train.py"): TrainOptions,
    ("python", "-m", "actor.run"): ActorSettings,
    ("python", "scripts/benchmark.py"): BenchmarkOptions,
    ("python", "scripts/chaos.py"): ChaosOptions,
}
# HOUSE's left column: no page uses these words.
_PRIVATE = re.compile(
    r"\b(scouts?|mailbox|rungs?|ladder|climbs?|incarnations?|spoilt|stumbled|told of|asked for|says so|by itself|"
    r"right of way|whoever|nobody|somebody)\b",
    re.IGNORECASE,
)
_NOUN_CLAUSE = re.compile(r"(?:^|[.:!] )(?:What|Whether|Whoever|Who|Where|How|That) (?![^.]*\?)", re.MULTILINE)
_SUBSTITUTED = re.compile(r"\$\(.*\)")
_WIRE_NAMES = ("architecture.md", "glossary.md", "run-directory.md")


def _prose(page: Path) -> str:
    """Return the text of ``page`` without fenced blocks, inline code and comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`|<!--.*?-->", "x", text)


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _check_environment(options: object) -> int:
    env_id = getattr(options, "env", None)
    if env_id is not None and ":" not in env_id:
        find_environment(env_id)
    return 0


@pytest.mark.parametrize("block", [block for block in _BLOCKS if block.language == "bash"], ids=str)
def test_commands_parse(block: Block) -> None:
    for words in commands(block):
        for name, options in _OPTIONS.items():
            if tuple(words[: len(name)]) == name:
                flags = [_SUBSTITUTED.sub("1", word) for word in words[len(name) :]]
                assert run_command(" ".join(name), options, _check_environment, flags) == 0
                break
        else:
            if words[0] == "rl-hotswap":
                assert words[1] in ("--help", "--version"), words
            elif words[0] == "python" and words[1].startswith("scripts/"):
                assert (REPOSITORY / words[1]).is_file(), words


@pytest.mark.parametrize("block", [block for block in _BLOCKS if block.language == "python"], ids=str)
def test_python_blocks_import_names_that_exist(block: Block) -> None:
    ours = ("rl_hotswap", "actor", "learner", "shared", "scripts")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ours:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("block", _BLOCKS, ids=str)
def test_blocks_are_complete(block: Block) -> None:
    assert block.language, f"{block}: a fence names its language"
    if block.language in RUNNABLE:
        assert "…" not in block.text
        assert "..." not in block.text
        assert "${" not in block.text
    for option in ("slow", "skip"):
        assert block.options.get(option, "x"), f"{block}: {option} carries a reason"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_fence_is_found(page: Path) -> None:
    assert len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def _anchors(page: Path) -> set[str]:
    """Return the names of the headings of ``page``, as MkDocs makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    plain = (
        re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    )
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_to_headings(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(((?!https:)[^)#\s]*)#([^)\s]+)\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.suffix != ".md" or anchor in _anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_named_files_exist(page: Path) -> None:
    """Inline code that looks like a path of this repository."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    tops = "actor|learner|shared|rl_hotswap|scripts|tests|docs"
    for path in re.findall(rf"`((?:{tops})/[\w./-]+)(?:::\w+)?`", text):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_prose_is_plain(page: Path) -> None:
    text = _prose(page)
    assert not _NOUN_CLAUSE.findall(text)
    if page.name not in _WIRE_NAMES:
        assert not _PRIVATE.findall(text)


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "".join(page.read_text() for page in _PAGES))
    assert len(named) > 40
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in (REPOSITORY / path).read_text()]
    assert not missing


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_promise_names_its_tests(page: Path) -> None:
    """The last column of a table of promises or attempts holds tests, and nothing else."""
    for table in re.findall(r"^\| [^\n]* \| tests \|\n\|[- |]+\|\n((?:\|[^\n]*\n)+)", page.read_text(), re.MULTILINE):
        for row in table.splitlines():
            cell = row.removesuffix(" |").rpartition(" | ")[2]
            assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", cell), row


def test_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name
        for page in _PAGES
        for group in re.findall(r"\.\[([a-z0-9,]+)\]", page.read_text())
        for name in group.split(",")
    }
    assert named
    assert named <= set(extras)


def test_readme_is_a_front_door() -> None:
    text = _README.read_text()
    assert len(text.splitlines()) <= 150
    train, test = [block for block in blocks(_README) if block.language == "bash"][:2]
    assert re.fullmatch(r"python3\.11 -m venv \.venv && .* -e \. && .*rl-hotswap train .*\n", train.text)
    assert text.index(test.text) < text.index("## ")
    assert text.count("<!-- test -->") == 1


def test_ci_runs_the_test_command_as_it_is_printed() -> None:
    """The line of .ci/run that reads the command out of README, run here."""
    script = (REPOSITORY / ".ci" / "run").read_text()
    (reading,) = re.findall(r"^test_command=\$\((.*)\)$", script, re.MULTILINE)
    read = subprocess.run(["bash", "-c", reading], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert read.stdout == [block for block in blocks(_README) if block.language == "bash"][1].text
    assert re.search(r'^(PYTEST_ADDOPTS="[^"]*" )?step "\$test_command"$', script, re.MULTILINE)


def test_every_command_and_exit_code_is_described() -> None:
    text = (_DOCS / "commands.md").read_text()
    for name in COMMANDS:
        assert f"`rl-hotswap {name}" in text, name


def test_summary_fields_are_described() -> None:
    text = (_DOCS / "run-directory.md").read_text()
    for name in Summary.__struct_fields__:
        assert f"`{name}`" in text, name


def _folders() -> set[str]:
    found = {
        str(path.parent.relative_to(REPOSITORY))
        for package in ("rl_hotswap", "actor", "learner", "shared")
        for path in (REPOSITORY / package).rglob("__init__.py")
    }
    return found - {"rl_hotswap", "actor", "learner", "shared"}


def test_architecture_lists_every_folder_in_the_order_of_the_imports() -> None:
    text = (_DOCS / "architecture.md").read_text()
    listed = re.findall(r"^\| `([\w/]+)` \| (?!holds)", text, re.MULTILINE)
    folders = _folders()
    assert listed == [layer for layers in LAYERS.values() for layer in layers if layer in folders]
    assert set(listed) == folders


def test_architecture_gives_a_reason_for_every_exception() -> None:
    text = (_DOCS / "architecture.md").read_text()
    for name in ONE_SIDED:
        assert re.search(rf"^\| `{name}`", text, re.MULTILINE), name


def test_diagrams_have_at_most_nine_boxes_and_every_box_is_a_folder() -> None:
    diagrams = [block for block in blocks(_DOCS / "architecture.md") if block.language == "mermaid"]
    assert len(diagrams) == 2
    for diagram in diagrams:
        boxes = re.findall(r'\["([^"<]+)', diagram.text)
        assert 0 < len(boxes) <= 9
        assert all((REPOSITORY / box).is_dir() for box in boxes), boxes


def test_deprecated_import_paths_work_with_a_warning() -> None:
    rows = re.findall(
        r"^\| `(from [^`]+)` \| `(from [^`]+)` \|$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert rows
    for old, new in rows:
        names: dict[str, object] = {}
        current: dict[str, object] = {}
        with pytest.warns(DeprecationWarning, match="is deprecated; use"):
            exec(old, names)
        exec(new, current)
        found = [[value for name, value in space.items() if "__" not in name] for space in (names, current)]
        assert found[0] == found[1], old


def test_api_reference_names_every_public_name() -> None:
    """mkdocstrings would find a wrong name, too, but only when the site is built."""
    text = (_DOCS / "reference" / "api.md").read_text()
    objects = {}
    missing = {"from_rllib"} if importlib.util.find_spec("ray") is None else set()
    for module, name in re.findall(r"^::: ([\w.]+)\.(\w+)$", text, re.MULTILINE):
        objects[name] = None if name in missing else getattr(importlib.import_module(module), name)
    assert missing <= objects.keys()
    for name in set(rl_hotswap.__all__) - {"__version__"} - missing:
        assert objects[name] is getattr(rl_hotswap, name)


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
