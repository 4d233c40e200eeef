import importlib
import linecache
import py_compile
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ProbeMismatch, ScriptingError
from shared.scripting.scripting import Check, save_archive, script_or_trace, try_methods
from tests.support.tiny_policy import TinyPolicy

EXAMPLE = [torch.zeros(3, 4), torch.zeros(3, 3)]
SOURCE = """
from torch import Tensor, nn

class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.layer(inputs[0]) * 1.0]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that can be imported as ``brought_along``, and is forgotten afterwards."""
    directory = tmp_path / "brought_along"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield directory
    for name in [name for name in sys.modules if name.split(".")[0] == "brought_along"]:
        del sys.modules[name]


def import_policy(package: Path, source: str = SOURCE) -> ModuleType:
    (package / "policy.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module("brought_along.policy")


def import_without_source(package: Path) -> ModuleType:
    """As it is where only compiled files are shipped."""
    source = package / "policy.py"
    source.write_text(SOURCE)
    py_compile.compile(str(source), cfile=str(package / "policy.pyc"), doraise=True)
    source.unlink()
    importlib.invalidate_caches()
    return importlib.import_module("brought_along.policy")


def equals(module: nn.Module) -> Check:
    """Compare with eager at three batch sizes."""

    def check(program: nn.Module) -> float:
        differences = []
        for batch_size in (1, 3, 64):
            inputs = [torch.randn(batch_size, 4), torch.randn(batch_size, 3)]
            for expected, found in zip(module(inputs), program(inputs), strict=True):
                differences.append(float((expected.double() - found.double()).abs().max()))
        if max(differences) > 1e-5:
            raise ProbeMismatch(f"{max(differences)} from eager")
        return max(differences)

    return check


def test_scripts_what_can_be_scripted() -> None:
    policy = TinyPolicy().eval()
    scripted = script_or_trace(policy, EXAMPLE, equals(policy))
    assert scripted.method == "script"
    assert scripted.failures == ()
    assert scripted.largest_difference == 0


def test_shares_its_tensors_with_the_module() -> None:
    policy = TinyPolicy().eval()
    scripted = script_or_trace(policy, EXAMPLE, equals(policy))
    with torch.no_grad():
        policy.head.bias.add_(torch.tensor([5.0, 0, -5]))
    inputs = [torch.randn(3, 4), torch.zeros(3, 3)]
    assert torch.equal(policy(inputs)[1], scripted.module(inputs)[1])


def test_without_its_source_a_policy_is_traced_and_torchs_reason_is_kept_word_for_word(package: Path) -> None:
    policy = import_without_source(package).Policy().eval()
    scripted = script_or_trace(policy, EXAMPLE, equals(policy))
    assert scripted.method == "trace"
    assert [(failure.method, failure.error) for failure in scripted.failures] == [
        ("script", "could not get source code")
    ]


def test_the_reason_is_the_same_when_it_is_tried_again(package: Path) -> None:
    policy = import_without_source(package).Policy().eval()
    for _ in range(3):
        assert script_or_trace(policy, EXAMPLE, equals(policy)).failures[0].error == "could not get source code"


class Unscriptable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def helper(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}  # a mixed dictionary: torch.jit has no type for it
        return [self.helper(inputs[0]) * numbers[1]]


def test_a_class_that_failed_once_does_not_hide_its_reason_the_second_time() -> None:
    policy = Unscriptable().eval()
    said = [script_or_trace(policy, EXAMPLE, equals(policy)).failures[0].error for _ in range(3)]
    assert "Dict key" in said[0] or "dict" in said[0].lower()
    assert "redefine" not in "".join(said)
    assert len(set(said)) == 1


def test_a_class_that_someone_else_failed_to_script_does_not_hide_its_reason() -> None:
    policy = Unscriptable().eval()
    with pytest.raises(RuntimeError):
        torch.jit.script(policy)
    with pytest.raises(RuntimeError, match="redefine"):  # or else there is nothing to be tested here
        torch.jit.script(policy)
    assert "redefine" not in script_or_trace(policy, EXAMPLE, equals(policy)).failures[0].error


def test_source_that_was_edited_after_the_import_is_not_believed(package: Path) -> None:
    policy = import_policy(package).Policy().eval()
    (package / "policy.py").write_text(SOURCE.replace("* 1.0", "* 3.0"))
    linecache.checkcache()
    scripted = script_or_trace(policy, EXAMPLE, equals(policy))
    assert scripted.method == "trace"
    assert scripted.failures[0].error is not None
    assert "from eager" in scripted.failures[0].error


class LoopsOverRows(Unscriptable):
    """Traced, its loop has as many rounds as the example had rows."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers = {1: 2.0, "two": 3.0}
        return [torch.stack([self.helper(row) * numbers[1] for row in inputs[0]])]


def test_a_baked_batch_size_is_refused_and_every_rungs_reason_is_told() -> None:
    policy = LoopsOverRows().eval()
    with pytest.raises(ScriptingError) as caught:
        script_or_trace(policy, EXAMPLE, equals(policy))
    scripted, failures = try_methods(policy, EXAMPLE, equals(policy))
    assert scripted is None
    assert [failure.method for failure in failures] == ["script", "trace"]
    assert str(caught.value) == failures[0].error
    assert [note.split(":")[0] for note in caught.value.__notes__] == ["script", "trace"]


def test_an_archive_holds_no_example_inputs(package: Path) -> None:
    policy = import_without_source(package).Policy().eval()
    archive = save_archive(script_or_trace(policy, EXAMPLE, equals(policy)).module)
    assert b"traced_inputs" not in archive
