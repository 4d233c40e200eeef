"""Objects that users pass as a module: all that hold one export and reload, and others are refused with the remedy."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from actor.acting import module_call
from learner.export.given_module import module_of
from learner.export.module_export import export_module
from learner.publishing.policy_publisher import publish_policy
from shared.errors import ConfigurationError
from shared.scripting.scripting import without_torch_warnings

# The programs are made here; test_module_call.py holds the tests of the sandbox.
load_policy = partial(module_call.load_policy, sandbox=None)


class Layer(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))


class Around(nn.Module):
    """Holds a scripted or traced child."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.child(x))


class DecisionGate(nn.Module):
    """The notebook's gate."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x
        return -x


class Cell(nn.Module):
    """The notebook's cell around a scripted gate."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new_h = torch.tanh(self.gate(self.linear(x)) + h)
        return new_h, new_h


class RnnLoop(nn.Module):
    """The notebook's loop around a traced cell around a scripted gate."""

    def __init__(self) -> None:
        super().__init__()
        cell = Cell(torch.jit.script(DecisionGate()))
        self.cell = torch.jit.trace(cell, (torch.rand(3, 4), torch.rand(3, 4)))

    def forward(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        h, y = torch.zeros(3, 4), torch.zeros(3, 4)
        for i in range(xs.size(0)):
            y, h = self.cell(xs[i], h)
        return y, h


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(module.save_to_buffer()))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
XS = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
KINDS: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "scripted": (lambda: torch.jit.script(Layer()), X),
    "traced": (lambda: torch.jit.trace(Layer(), X), X),
    "loaded": (lambda: reloaded(torch.jit.script(Layer())), X),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(Layer().eval())), X),
    "scripted child": (lambda: Around(torch.jit.script(Layer())), X),
    "traced child": (lambda: Around(torch.jit.trace(Layer(), X)), X),
    "loop around a traced cell around a scripted gate": (RnnLoop, XS),
    "the same, scripted": (lambda: torch.jit.script(RnnLoop()), XS),
    "the same, traced around": (lambda: torch.jit.trace(nn.Sequential(torch.jit.script(RnnLoop())), XS), XS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scripted_and_traced_modules_export_and_reload(kind: str, tmp_path: Path) -> None:
    make, x = KINDS[kind]
    with without_torch_warnings():
        module = make()
    export_module(module, (x,), tmp_path / "module", onnx=False)
    load = load_policy(tmp_path / "module")
    for inputs in (x, -x):
        torch.testing.assert_close(load(inputs), module(inputs))


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_a_program_of_torch_export_is_exported(is_dynamic: bool, tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if is_dynamic else None
    program = torch.export.export(Layer().eval(), (X,), dynamic_shapes=shapes)
    report = export_module(program, (X,), tmp_path / "module", onnx=False)
    load = load_policy(tmp_path / "module")
    inputs = torch.cat([X, X]) if is_dynamic else -X
    torch.testing.assert_close(load(inputs), program.module()(inputs))
    assert report.manifest.module is not None
    assert report.manifest.module.inputs[0].shape == ((None if is_dynamic else 3), 4)


def test_a_compiled_module_is_the_module_within() -> None:
    module = Layer()
    assert module_of(torch.compile(module)) is module


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (Layer, "pass an instance of the module"),
        (Layer().state_dict(), "build the module, call module.load_state_dict"),
        (torch.relu, "pass a torch.nn.Module"),
        ("x" * 1000, "pass a torch.nn.Module"),
    ],
)
def test_other_objects_are_refused_with_the_remedy_first(given: object, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        module_of(given)
    assert str(caught.value).startswith(remedy)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["scripted", "frozen"])
def test_a_scripted_module_is_published(kind: str, tmp_path: Path) -> None:
    with without_torch_warnings():
        module = KINDS[kind][0]()
    own_spaces = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2)
    manifest = publish_policy(module, *own_spaces, tmp_path)
    assert any(report.taken for report in manifest.export)
