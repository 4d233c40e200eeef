"""Programs that load_policy runs in the sandbox first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from actor.acting import module_call
from actor.acting.module_call import load_policy
from actor.loading import engine_choice
from learner.export.module_export import export_module
from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.engines.load import load_program
from shared.errors import PolicyOutputError, ProgramError, SignatureMismatch, TransientLoadError
from tests.support.agent_policies import local_store
from tests.support.bad_programs import Crashes, ScalarForSomeInputs, publish_program
from tests.support.captured_logs import CapturedLogs


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class _Named(nn.Module):
    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x, -x)


@pytest.fixture
def _no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sandbox process can be started."""
    monkeypatch.setattr("sys.executable", "/no/such/python")


@pytest.mark.slow
def test_a_program_that_crashes_ends_the_sandbox_process_only(tmp_path: Path) -> None:
    publish_program(local_store(tmp_path), Crashes())
    with pytest.raises(ProgramError, match="killed the sandbox process"):
        load_policy(tmp_path / "v000000")


@pytest.mark.parametrize("engine", ["llvm", "onnx", "torchscript"])
def test_an_exported_module_runs_in_the_sandbox_too(tmp_path: Path, engine: EngineChoice) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).eval()
    export_module(module, (torch.ones(4, 3),), tmp_path / "m", onnx=engine != "torchscript")
    x = np.ones((5, 3), np.float32)
    np.testing.assert_allclose(load_policy(tmp_path / "m", engine)(x), module(torch.from_numpy(x)).detach(), rtol=1e-5)


@pytest.mark.parametrize(("inner", "first", "challenger"), [(3, "llvm", "onnx"), ((2, 3, 3), "onnx", "torchscript")])
@pytest.mark.parametrize(("times_s", "is_faster"), [((1e-3, 5e-4), True), ((1e-3, 0.95e-3), False)])
def test_auto_takes_a_clearly_faster_engine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    inner: int | tuple[int, ...],
    first: str,
    challenger: str,
    times_s: tuple[float, float],
    is_faster: bool,
) -> None:
    """LLVM does not support matrices in rows."""

    def measure(engines: Sequence[Engine], inputs: Sequence[np.ndarray]) -> list[float]:
        return list(times_s[: len(engines)])

    monkeypatch.setattr(engine_choice, "median_call_s", measure)
    module = nn.Linear(3, 2) if inner == 3 else nn.Conv2d(2, 2, 2)
    x = torch.ones(4, inner) if isinstance(inner, int) else torch.ones(4, *inner)
    export_module(module, (x,), tmp_path / "m")
    loaded = load_policy(tmp_path / "m", sandbox=None)
    assert loaded.engine.kind == (challenger if is_faster else first)
    torch.testing.assert_close(loaded(x), module(x).detach())
    assert load_policy(tmp_path / "m", first, sandbox=None).engine.kind == first  # type: ignore[arg-type]


def test_a_challenger_that_does_not_load_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "median_call_s", lambda engines, _: [1.0, 0.0][: len(engines)])
    export_module(nn.Linear(3, 2), (torch.ones(4, 3),), tmp_path / "m")

    def load(kind: EngineKind, *args: Any, **options: Any) -> Engine:
        if kind == "onnx":
            raise ProgramError("no session")
        return load_program(kind, *args, **options)

    monkeypatch.setattr(module_call, "load_program", load)
    loaded = load_policy(tmp_path / "m", sandbox=None)
    assert (loaded.engine.kind, loaded.refusals) == ("llvm", ())


@pytest.mark.usefixtures("_no_python")
def test_without_a_sandbox_process_a_program_is_loaded_only_if_that_is_permitted(tmp_path: Path) -> None:
    module = nn.Linear(11, 2)  # no other test's: a program that has passed needs no process
    export_module(module, (torch.ones(4, 11),), tmp_path / "m", onnx=False)
    with pytest.raises(TransientLoadError, match="the sandbox process could not be started"):
        load_policy(tmp_path / "m")
    assert load_policy(tmp_path / "m", sandbox=None)(torch.ones(1, 11)).shape == (1, 2)


def test_outputs_of_another_shape_for_some_inputs_are_an_error(tmp_path: Path) -> None:
    publish_program(local_store(tmp_path), ScalarForSomeInputs())
    loaded = load_policy(tmp_path / "v000000", sandbox=None)
    near, noise = np.zeros((3, 4), np.float32), np.zeros((3, 3), np.float32)
    assert [len(output) for output in loaded([near, noise])] == [3, 3, 3]
    with pytest.raises(PolicyOutputError, match="its signature promises: output log_prob: expected float32"):
        loaded([near + 1e5, noise])


def test_a_class_that_cannot_be_imported_is_replaced_with_one_warning(
    tmp_path: Path, captured_logs: CapturedLogs
) -> None:
    export_module(_Named(), (torch.ones(4, 3),), tmp_path / "m", onnx=False)
    manifest = tmp_path / "m" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f"{__name__}:Pair", "tests.no_such_module:Pair"))
    loaded = load_policy(tmp_path / "m", sandbox=None, trusted_modules=("tests",))
    assert loaded(torch.ones(1, 3))._fields == ("first", "second")
    (line,) = captured_logs.lines_with("class not imported, an equivalent one is used class=tests.no_such_module:Pair")
    assert "ModuleNotFoundError" in line


@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, lambda x: x.to("meta")], ids=["sparse", "meta"])
def test_a_tensor_that_is_no_array_is_refused(tmp_path: Path, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    export_module(nn.Linear(3, 2), (torch.ones(4, 3),), tmp_path / "m", onnx=False)
    loaded = load_policy(tmp_path / "m", sandbox=None)
    with pytest.raises(SignatureMismatch, match="pass dense tensors"):
        loaded(make(torch.ones(2, 3)))
