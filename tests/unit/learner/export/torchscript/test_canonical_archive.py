"""Names in TorchScript archives: they depend on the program alone, and the program stays the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from learner.export.export_methods import ExportMethod
from learner.export.module_export import export_module
from learner.export.torchscript.canonical_archive import with_canonical_names
from shared.policy.program_digest import program_digest
from shared.scripting.script_modules import without_torch_warnings
from shared.scripting.scripting import save_archive, script
from tests.support.tiny_policy import TinyPolicy


class Scriptable(nn.Module):
    """Has a decision."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if bool(y.sum() > 0):
            return y
        return -y


class Traceable(nn.Module):
    """Cannot be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, *x: Tensor) -> Tensor:
        return torch.relu(self.linear(x[0]))


class Mixed(nn.Module):
    """Holds one of each, and a second layer of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Scriptable()
        self.two = Traceable()
        self.three = Traceable()

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x) * self.three(x)


METHODS: dict[ExportMethod, type[nn.Module]] = {
    "script": Scriptable,
    "script+trace": Mixed,
    "trace+script": Mixed,
    "trace": Traceable,
}


def exported_digest(how: ExportMethod, directory: Path) -> str:
    example = torch.linspace(-1, 1, 12).reshape(3, 4)
    report = export_module(METHODS[how](), (example,), directory, how=how)
    (program,) = report.manifest.programs
    return program_digest("torchscript", (directory / program.file).read_bytes())


@pytest.mark.parametrize("how", METHODS)
def test_two_exports_of_one_module_have_equal_digests(how: ExportMethod, tmp_path: Path) -> None:
    assert len({exported_digest(how, tmp_path / str(number)) for number in range(3)}) == 1


@pytest.mark.slow
def test_exports_of_two_processes_have_equal_digests(tmp_path: Path) -> None:
    code = f"""
import pathlib
from tests.unit.learner.export.torchscript.test_canonical_archive import exported_digest
print(exported_digest("script+trace", pathlib.Path({str(tmp_path / "other")!r})))
"""
    root = Path(__file__).parents[5]
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == exported_digest("script+trace", tmp_path / "mine")


def test_renamed_program_shares_its_tensors_and_computes_the_same() -> None:
    policy = TinyPolicy().eval()
    with without_torch_warnings():
        scripted = script(policy)
    renamed = with_canonical_names(scripted)
    inputs = [torch.ones(3, 4), torch.zeros(3, 3)]
    with torch.no_grad():
        policy.body.weight.mul_(2)
        for expected, found in zip(policy(inputs), renamed(inputs), strict=True):
            torch.testing.assert_close(found, expected)


def test_canonical_names_stay_as_they_are() -> None:
    with without_torch_warnings():
        once = with_canonical_names(script(Scriptable()))
        twice = with_canonical_names(once)
    assert len({program_digest("torchscript", save_archive(module)) for module in (once, twice)}) == 1


def test_archive_of_an_operator_that_torch_has_changed_is_loaded(tmp_path: Path) -> None:
    """Its version is in another entry of the archive."""
    report = export_module(nn.GELU(), (torch.ones(3, 4),), tmp_path / "module", onnx=False)
    assert report.taken == ("script",)
