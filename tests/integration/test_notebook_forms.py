"""The examples of the notebook in every form of source: each cell of the table in docs/guides/export.md."""

import compileall
import functools
import json
import marshal
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import notebook_examples
from tests.support.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "guides" / "export.md"
SOURCE = Path(notebook_examples.__file__).read_text()
NAME = "notebook_forms"
IMPORT = f"import {NAME}; {NAME}.main()"

# As IPython runs cells: each is compiled for itself, its source is found by the name of its "file".
NOTEBOOK = """
import linecache, sys
for number, cell in enumerate(open(sys.argv[1]).read().split("# %%\\n")):
    name = f"<ipython-input-{number}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    exec(compile(cell, name, "exec"), globals())
"""

# As PyInstaller's importer: code objects from an archive, a file that does not exist, no source.
FROZEN = f"""
import importlib.abc, importlib.util, marshal, sys
class Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "{NAME}":
            return importlib.util.spec_from_loader(name, self, origin="/frozen/{NAME}.pyc")
    def exec_module(self, module):
        module.__file__ = "/frozen/{NAME}.pyc"
        exec(marshal.loads(open(sys.argv[1], "rb").read()), module.__dict__)
sys.meta_path.insert(0, Importer())
{IMPORT}
"""


def _file(directory: Path) -> list[str]:
    path = directory / f"{NAME}.py"
    path.write_text(SOURCE)
    return [str(path)]


def _command(_: Path) -> list[str]:
    return ["-c", SOURCE]


def _notebook(directory: Path) -> list[str]:
    return ["-c", NOTEBOOK, *_file(directory)]


def _bytecode(directory: Path) -> list[str]:
    [file] = _file(directory)
    assert compileall.compile_file(file, legacy=True, quiet=2)
    Path(file).unlink()
    return ["-c", f"import sys; sys.path.insert(0, {str(directory)!r}); {IMPORT}"]


def _zip(directory: Path) -> list[str]:
    archive = directory / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{NAME}.py", SOURCE)
    return ["-c", f"import sys; sys.path.insert(0, {str(archive)!r}); {IMPORT}"]


def _cython(directory: Path) -> list[str]:
    [file] = _file(directory)
    subprocess.run([sys.executable, "-m", "cython", "-3", file, "-o", directory / "net.c"], check=True)
    library = directory / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["gcc", "-shared", "-fPIC", "-O0", "-I", include, directory / "net.c", "-o", library], check=True)
    Path(file).unlink()
    return ["-c", f"import sys; sys.path.insert(0, {str(directory)!r}); {IMPORT}"]


def _frozen(directory: Path) -> list[str]:
    archive = directory / "archive"
    archive.write_bytes(marshal.dumps(compile(SOURCE, f"{NAME}.py", "exec")))
    return ["-c", FROZEN, str(archive)]


FORMS: dict[str, Callable[[Path], list[str]]] = {
    "file": _file,
    "`python -c`": _command,
    "notebook": _notebook,
    "`.pyc` only": _bytecode,
    "zip": _zip,
    "Cython": _cython,
    "frozen importer": _frozen,
}
"""Arguments of Python for each form, by the title of its column."""


def _table() -> dict[str, dict[str, str]]:
    """Return the cells of the table by example and form."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| example |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    head, _, *body = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


@functools.cache
def _outcomes(form: str, directory: Path) -> dict[str, tuple[str, str]]:
    """Run all examples in one process of ``form``."""
    directory.mkdir()
    command = [sys.executable, "-W", "ignore", *FORMS[form](directory), str(directory)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, tuple[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_table_has_every_example_and_form() -> None:
    table = _table()
    assert list(table) == list(notebook_examples.EXAMPLES)
    assert all(list(cells) == list(FORMS) for cells in table.values())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", notebook_examples.EXAMPLES)
@pytest.mark.parametrize("form", FORMS)
def test_a_cell_of_the_table(form: str, example: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if form == "Cython" and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    result, reason = _outcomes(form, tmp_path_factory.getbasetemp() / f"form{list(FORMS).index(form)}")[example]
    cell = _table()[example][form]
    if cell == "exported":
        assert result == "exported", reason
    else:
        # Either torch cannot build the object, or it can make no program of it, for the same reason.
        assert (cell, result) in (("not built", "torch"), ("refused", "refused")), reason
        messages = ("could not get source code", "Can't get source", "object was expected", "getfile returned None")
        assert any(message in reason for message in messages), reason
