"""Programs that load_policy runs in the sandbox first."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actor.acting.module_call import load_policy
from learner.export.module_export import export_module
from shared.engines.engine import EngineChoice
from shared.errors import ProgramError, TransientLoadError
from tests.support.agent_policies import local_store
from tests.support.bad_programs import Crashes, publish_program


@pytest.fixture
def _no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sandbox process can be started."""
    monkeypatch.setattr("sys.executable", "/no/such/python")


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


@pytest.mark.usefixtures("_no_python")
def test_without_a_sandbox_process_a_program_is_loaded_only_if_that_is_permitted(tmp_path: Path) -> None:
    export_module(nn.Linear(3, 2), (torch.ones(4, 3),), tmp_path / "m", onnx=False)
    with pytest.raises(TransientLoadError, match="the sandbox process could not be started"):
        load_policy(tmp_path / "m")
    assert load_policy(tmp_path / "m", sandbox=None)(torch.ones(1, 3)).shape == (1, 2)
