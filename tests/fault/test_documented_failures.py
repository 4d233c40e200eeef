"""Every documented failure and its outcome here: the table of docs/failures.md, row by row.

Each test provokes torch's own error first, then exports the same module: a method works, or the error says what to
change.
"""

import compileall
import importlib
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from learner.export.module_source import load_pickled_module
from shared.errors import ConfigurationError, ExportError, NotTrusted, SignatureMismatch
from tests.support import documented_modules as modules
from tests.support.documented_modules import SOURCE, seeded
from tests.support.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "failures.md"
X = torch.linspace(-1, 1, 12).reshape(3, 4)
X5 = torch.linspace(-2, 1, 20).reshape(5, 4)

DOCUMENTED: dict[str, str] = {}
"""The first cell of a row of the page's table: the test that provokes it."""

Test = Callable[..., None]
ImportNet = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def documented(row: str) -> Callable[[Test], Test]:
    """Register the row of the table that a test provokes."""

    def mark(test: Test) -> Test:
        assert row not in DOCUMENTED
        DOCUMENTED[row] = test.__name__
        return test

    return mark


class Exported:
    """One module exported without ONNX, and what each method said."""

    def __init__(self, directory: Path, module: nn.Module, *args: Any, how: Any = None, batch_dims: Any = None) -> None:
        report = export_module(module, args, directory, how=how, batch_dims=batch_dims, onnx=False)
        self.taken = report.taken
        self.said = {method.method: method.error or "" for method in report.methods if not method.taken}
        self.call = load_policy(directory, sandbox=None, trusted_modules=(modules.__name__,))

    def took(self, method: str, script_error: str = "") -> "Exported":
        """Check the method that was taken, and the error of scripting against a regular expression."""
        assert self.taken == (method,)
        assert re.search(script_error, self.said.get("script", ""))
        return self

    def equals(self, module: nn.Module, *args: Any) -> None:
        """The loaded program answers as the module does."""
        with torch.no_grad():
            torch.testing.assert_close(self.call(*args), module(*args), rtol=1e-5, atol=1e-5)


def refused(directory: Path, module: nn.Module, *args: Any, how: Any = None) -> str:
    """The error of the export."""
    with pytest.raises(ExportError) as caught:
        export_module(module, args, directory, how=how, onnx=False)
    assert not directory.exists()
    return str(caught.value)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The directory of an export."""
    return tmp_path / "exported"


@pytest.fixture
def import_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportNet]:
    """A function that imports SOURCE as a new module and then calls ``afterwards`` with its file."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    name = f"documented_{abs(hash(tmp_path))}"

    def do(*, without_source: bool = False, afterwards: Callable[[Path], object] = lambda _: None) -> Any:
        file = directory / f"{name}.py"
        file.write_text(SOURCE)
        if without_source:
            assert compileall.compile_file(str(file), legacy=True, quiet=2)
            file.unlink()
        importlib.invalidate_caches()
        imported = importlib.import_module(name)
        afterwards(file)
        return seeded(imported.Net)

    yield do
    sys.modules.pop(name, None)


def no_source_but_a_trace(version: Path, net: nn.Module) -> None:
    """torch finds no source; the export traces, and its report keeps torch's message."""
    with pytest.raises(OSError, match=r"^could not get source code$"):
        torch.jit.script(net)
    Exported(version, net, X).took("trace", r"^could not get source code\Z").equals(net, X5)


@documented("`could not get source code`: a class made by `exec`, `python -c` or at a prompt")
def test_a_class_made_by_exec(version: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "typed_at_a_prompt"}
    exec(SOURCE, namespace)
    no_source_but_a_trace(version, seeded(namespace["Net"]))
    branching = "y = self.layer(x)\n        return y if y.sum() > 0 else -y"
    exec(SOURCE.replace("return torch.tanh(self.layer(x))", branching), namespace)
    said = refused(version.with_name("other"), seeded(namespace["Net"]), X)
    assert "script: could not get source code" in said
    assert "What to change: ship the .py file of every class and function in the module" in said


ONE_LINER = f"""
{SOURCE}
import sys, torch
from pathlib import Path
from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
net, x = Net().eval(), torch.randn(3, 4)
report = export_module(net, (x,), Path(sys.argv[1]), onnx=False)
assert torch.allclose(load_policy(sys.argv[1], sandbox=None)(x + 1), net(x + 1), atol=1e-5)
print(*report.taken, report.methods[0].error, sep="; ")
"""


@pytest.mark.slow
def test_a_class_from_the_command_line(version: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", ONE_LINER, version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.stdout == "trace; could not get source code\n", done.stderr


@documented("`could not get source code`: only the `.pyc` was shipped")
def test_only_the_pyc_was_shipped(version: Path, import_net: ImportNet) -> None:
    no_source_but_a_trace(version, import_net(without_source=True))


@documented("`could not get source code`: the file was deleted after its import")
def test_the_file_was_deleted(version: Path, import_net: ImportNet) -> None:
    no_source_but_a_trace(version, import_net(afterwards=Path.unlink))


@documented("No message at all, or `lineno is out of bounds`: the file was edited after its import")
def test_the_file_was_edited(version: Path, import_net: ImportNet) -> None:
    net = import_net(afterwards=lambda file: file.write_text(SOURCE.replace("tanh", "sin")))
    assert not torch.allclose(torch.jit.script(net)(X), net(X)), (
        "torch scripts another file than was imported, without an error"
    )
    Exported(version, net, X).took("trace", "expected").equals(net, X5)


def test_the_file_was_shortened(version: Path, import_net: ImportNet) -> None:
    net = import_net(afterwards=lambda file: file.write_text("# all moved elsewhere\n"))
    with pytest.raises(OSError, match=r"^lineno is out of bounds$"):
        torch.jit.script(net)
    Exported(version, net, X).took("trace", r"^lineno is out of bounds\Z").equals(net, X5)


@pytest.mark.slow
@documented("`module, class, method, function, traceback, frame, or code object was expected`: compiled by Cython")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_compiled_by_cython(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "documented_cython"
    source = tmp_path / f"{name}.py"
    source.write_text(SOURCE)
    subprocess.run([sys.executable, "-m", "cython", "-3", source, "-o", tmp_path / "net.c"], check=True)
    library = tmp_path / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["gcc", "-shared", "-fPIC", "-O0", "-I", include, tmp_path / "net.c", "-o", library], check=True)
    source.unlink()
    monkeypatch.syspath_prepend(str(tmp_path))
    net = seeded(importlib.import_module(name).Net)
    message = "module, class, method, function, traceback, frame, or code object was expected"
    with pytest.raises(TypeError, match=f"^{message}, got cython_function_or_method$"):
        torch.jit.script(net)
    Exported(version, net, X).took("trace", message).equals(net, X5)
    del sys.modules[name]


@documented(
    "`Expected a single top-level function`, `Lambda aren't supported`, `Can't get source for <function <lambda>`"
)
def test_a_lambda(version: Path) -> None:
    sourceless = seeded(modules.LambdaNet)
    sourceless.squash = eval("lambda x: x.tanh()")
    for name, net, message in (
        ("kept", seeded(modules.LambdaNet), "Expected a single top-level function"),
        ("made", seeded(modules.InnerLambdaNet), "Lambda aren't supported"),
        ("sourceless", sourceless, "Can't get source for <function <lambda>"),
    ):
        with pytest.raises((RuntimeError, torch.jit.frontend.NotSupportedError), match=message):
            torch.jit.script(net)
        Exported(version / name, net, X).took("trace", message).equals(net, X5)


@documented("`Failed to get source for <function …__init__>`: a dataclass in an annotation")
def test_a_dataclass_annotation(version: Path) -> None:
    net = seeded(modules.DataclassNet)
    with pytest.raises(OSError, match=r"^Failed to get source for <function Sensors\.__init__"):
        torch.jit.script(net)
    exported = Exported(version, net, modules.Sensors(X, torch.rand(3, 2, 2))).took("trace", "Failed to get source for")
    exported.equals(net, modules.Sensors(X5, torch.rand(5, 2, 2)))


@documented("`List inputs to traced functions must have consistent element type`")
def test_mixed_inputs(version: Path) -> None:
    net = seeded(modules.NotebookNet)

    def inputs(rows: int) -> list[Any]:
        legal = torch.arange(rows * 3).reshape(rows, 3) % 2 == 0
        return [torch.rand(rows, 4), legal, (torch.rand(rows, 8), torch.rand(rows, 8))]

    with pytest.raises(RuntimeError, match=r"consistent element type\. Found Tensor and Tuple\[Tensor, Tensor\]"):
        torch.jit.trace(net, (inputs(3),))
    exported = Exported(version, net, inputs(3), how="trace").took("trace")
    exported.equals(net, inputs(5))
    logits, (hidden, cell), value = exported.call(inputs(2))
    assert [tuple(tensor.shape) for tensor in (logits, hidden, cell, value)] == [(2, 3), (2, 8), (2, 8), (2, 1)]


@documented("`Only tensors, lists, tuples of tensors, or dictionary of tensors can be output from traced functions`")
def test_mixed_outputs(version: Path) -> None:
    net = seeded(modules.MixedOutputNet)
    with pytest.raises(RuntimeError, match="can be output from traced functions"):
        torch.jit.trace(net, (X,))
    exported = Exported(version, net, X, how="trace")
    exported.equals(net, X5)
    assert exported.call(X5)[1:] == (None, 3)


@documented("`cannot be compiled since it inherits from nn.Module, pass an instance instead`")
def test_a_class_for_an_instance(version: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cannot be compiled since it inherits from nn\.Module, pass an instance"):
        torch.jit.script(modules.Squashed)
    with pytest.raises(ConfigurationError, match=r"pass an instance of the module, not its class: expected .*Squashed"):
        export_module(modules.Squashed, (X,), version)
    Exported(version, seeded(modules.Squashed), [X]).took("script")


@documented("`'Tensor' object has no attribute or method`, `Module … has no attribute`")
def test_no_attribute_or_method(version: Path) -> None:
    configured = seeded(modules.Configured)
    with pytest.raises(RuntimeError, match=r"Module 'Configured' has no attribute 'config'"):
        torch.jit.script(configured)
    Exported(version, configured, X).took("trace").equals(configured, X5)

    through_numpy = seeded(modules.ThroughNumpy)
    with pytest.raises(RuntimeError, match=r"'Tensor' object has no attribute or method 'numpy'"):
        torch.jit.script(through_numpy)
    said = refused(version.with_name("other"), through_numpy, X)
    assert "no method gives a program that equals the module: script: 'Tensor' object has no attribute" in said
    assert "What to change: stay with torch's operations inside forward" in said


@documented("Indexing a list in a trace")
@pytest.mark.parametrize("how", ["script", "trace", "onnx"])
def test_list_indexing_in_a_trace(version: Path, how: str) -> None:
    net = seeded(modules.ListIndexing)
    parts = [X, X + 1, X * 2]
    assert torch.equal(torch.jit.trace(net, (parts,))(parts), net(parts)), "said not to work, and it does"
    Exported(version, net, parts, how=how).took(how).equals(net, [X5, X5 - 1, X5 * 3])


@documented("No message at all: a loop over a shape in a trace")
def test_a_loop_over_a_shape(version: Path) -> None:
    net = seeded(modules.RowLoop)
    assert not torch.allclose(torch.jit.trace(net, X)(X5), net(X5)), "it went on adding up three rows"
    assert "a loop over the batch was baked in" in refused(version, net, X, how="trace")
    Exported(version, net, X).took("script").equals(net, X5)


@documented("`Converting a tensor to a Python boolean might cause the trace to be incorrect`: if/else on data")
def test_a_branch_on_data(version: Path) -> None:
    net = seeded(modules.Undecided)
    with pytest.warns(torch.jit.TracerWarning, match="Converting a tensor to a Python boolean"):
        traced = torch.jit.trace(net, X, check_trace=False)
    assert any(not torch.allclose(traced(x), net(x)) for x in (X, -X, X5, -X5)), "the other branch is gone"
    said = refused(version, net, X, how="trace")
    assert (
        "a branch or a value was baked in: Converting a tensor to a Python boolean might cause the trace to be" in said
    )
    assert said.endswith("script keeps decisions, and so does torch.where")
    exported = Exported(version, net, X).took("script")
    for x in (X, -X, X5, -X5):
        exported.equals(net, x)


@documented(
    "`Recompiling function forward … size mismatch at index 0`: a batch size that changes under `torch.compile`"
)
@pytest.mark.slow
def test_a_batch_size_that_changes_under_compile() -> None:
    from shared.engines.eager import TorchCompileEngine

    bare = torch.compile(seeded(modules.Squashed), backend="eager")
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        bare([X])
        with pytest.raises(torch._dynamo.exc.RecompileError, match=r"size mismatch at index 0\. expected 3, actual 5"):
            bare([X5])
    torch._dynamo.reset()
    net = seeded(modules.Squashed)
    engine = TorchCompileEngine(seeded(modules.Squashed), "0" * 64)
    engine.run([np.ones((3, 4), np.float32)])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (2, 5, 64):
            inputs = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
            with torch.no_grad():
                (expected,) = net([torch.from_numpy(inputs)])
            np.testing.assert_allclose(engine.run([inputs])[0], expected.numpy(), rtol=1e-5, atol=1e-5)


@documented("`Can't redefine method: forward`: a class that a first failed script has poisoned")
def test_a_poisoned_class(version: Path) -> None:
    net = seeded(modules.ThroughNumpy)
    # Others may have failed with this class before, and left it either way.
    with pytest.raises(RuntimeError):
        torch.jit.script(net)
    with pytest.raises(RuntimeError, match=r"^Can't redefine method: forward on class"):
        torch.jit.script(net)
    for attempt in ("one", "two"):
        said = refused(version.with_name(attempt), net, X, how="script")
        assert "'Tensor' object has no attribute or method 'numpy'" in said
        assert "redefine" not in said


LSTM_PROGRAM = """
import warnings
warnings.simplefilter("ignore")
import torch
lstm = torch.nn.LSTM(4, 8).eval()
state = (torch.zeros(1, 3, 8), torch.zeros(1, 3, 8))
traced = torch.jit.trace(lstm, (torch.zeros(1, 3, 4), state), check_trace=False)
small = (torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))
with torch.no_grad():
    for _ in range(1000):
        traced(torch.zeros(1, 3, 4), small)
"""


@documented(
    "No message at all, and the process is gone: a traced `nn.LSTM` whose state has another size than its batch"
)
def test_a_traced_lstm_with_a_state_of_another_size(version: Path) -> None:
    bare = subprocess.run([sys.executable, "-c", LSTM_PROGRAM], capture_output=True, text=True, check=False)
    assert bare.returncode < 0, f"expected a signal to end it: {bare.stderr}"
    net = seeded(modules.Recurrent)

    def state(rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, rows, 8), torch.ones(1, rows, 8)

    exported = Exported(version, net, torch.rand(1, 3, 4), state(3), how="trace", batch_dims=(1, 1, 1))
    exported.equals(net, torch.rand(1, 5, 4), state(5))
    with pytest.raises(SignatureMismatch, match=r"expected float32 \(1, 3, 8\), found float32 \(1, 1, 8\)"):
        exported.call(torch.rand(1, 3, 4), state(1))


@documented("A module that was pickled whole, `torch.save(model, path)`")
def test_a_pickled_module(version: Path, tmp_path: Path) -> None:
    net = seeded(modules.DataclassNet)
    file = tmp_path / "model.pt"
    torch.save(net, file)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(file, weights_only=True)
    with pytest.raises(NotTrusted, match=r"--trust-pickle .*model\.pt would be read as a pickle, which runs"):
        load_pickled_module(file, trust_pickle=False)
    exported = Exported(version, load_pickled_module(file, trust_pickle=True), modules.Sensors(X, torch.rand(3, 2, 2)))
    exported.equals(net, modules.Sensors(X5, torch.rand(5, 2, 2)))


def test_every_row_of_the_table_has_its_test() -> None:
    first_table = PAGE.read_text().partition("\n| ")[2].partition("\n\n")[0]
    rows = first_table.splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert [cell[0] for cell in cells] == list(DOCUMENTED)
    assert all(len(cell) == 3 and all(cell) for cell in cells), "message, what it means, what this project does"
