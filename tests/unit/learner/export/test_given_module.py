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
from learner.export.module_source import read_state_dict
from learner.publishing.policy_publisher import publish_policy
from shared.errors import ConfigurationError, ExportError
from shared.scripting.script_modules import without_torch_warnings

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
    load = load_policy(tmp_path / "module", sandbox=None)
    for inputs in (x, -x):
        torch.testing.assert_close(load(inputs), module(inputs))


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_a_program_of_torch_export_is_exported(is_dynamic: bool, tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if is_dynamic else None
    program = torch.export.export(Layer().eval(), (X,), dynamic_shapes=shapes)
    report = export_module(program, (X,), tmp_path / "module", onnx=False)
    load = load_policy(tmp_path / "module", sandbox=None)
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


def with_nan() -> nn.Module:
    module = Layer()
    nn.init.constant_(module.linear.weight, torch.nan)
    return module


OWN_SPACES = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Layer().bfloat16(), "export module.float(), or pass its own dtype (x.to(torch.bfloat16)): "),
        (with_nan, "load finite weights: linear.weight holds NaN"),
        (lambda: Around(torch.compile(Layer())), "put child._orig_mod in its place, or export before torch.compile"),
    ],
    ids=["bfloat16", "nan", "compiled child"],
)
def test_modules_that_no_version_can_hold_are_refused_with_the_remedy_first(
    make: Callable[[], nn.Module], remedy: str, tmp_path: Path
) -> None:
    for export in (
        lambda: export_module(make(), (X,), tmp_path / "module"),
        lambda: publish_policy(make(), *OWN_SPACES, tmp_path / "store"),
    ):
        with pytest.raises(ExportError) as caught:
            export()
        assert str(caught.value).startswith(remedy)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("argument", [X, X.numpy(), 3])
def test_arguments_that_are_no_tuple_are_refused(argument: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^pass the positional arguments as a tuple, such as \(x,\)"):
        export_module(Layer(), argument, tmp_path / "module")


def test_an_empty_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^pass an example with at least one row"):
        export_module(Layer(), (X[:0],), tmp_path / "module")


@pytest.mark.parametrize(
    ("action_space", "expected"),
    [
        (spaces.Discrete(3), "return 3 logits"),
        (spaces.MultiDiscrete([2, 3]), "return 5 logits"),
        (spaces.Box(-1, 1, (3,), np.float32), "return 3 mean"),
    ],
)
def test_an_output_of_the_wrong_size_is_refused(action_space: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"^{expected} for each row, as the action space has: the module returns 2"):
        publish_policy(Layer(), OWN_SPACES[0], action_space, tmp_path)


def test_a_layer_with_the_older_weight_norm_is_exported(tmp_path: Path) -> None:
    with without_torch_warnings():
        module = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 2)))
    export_module(module, (X,), tmp_path / "module", onnx=False)
    torch.testing.assert_close(load_policy(tmp_path / "module", sandbox=None)(-X), module(-X).detach())


def test_the_state_dict_of_a_compiled_module_is_read(tmp_path: Path) -> None:
    module = Layer()
    torch.save({f"_orig_mod.{name}": value for name, value in module.state_dict().items()}, tmp_path / "weights.pt")
    assert read_state_dict(tmp_path / "weights.pt").keys() == module.state_dict().keys()


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^pass one of auto, llvm, .* as engine: found 'tensorrt'"):
        load_policy(tmp_path, engine="tensorrt", sandbox=None)


def test_the_report_has_the_modules_own_reason(tmp_path: Path) -> None:
    names: dict[str, Any] = {"nn": nn, "__name__": "made_here"}
    exec("class NoSource(nn.Linear):\n    def forward(self, x):\n        return super().forward(x)\n", names)
    manifest = publish_policy(names["NoSource"](4, 2), *OWN_SPACES, tmp_path)
    script_report = manifest.export[0]
    assert script_report.method == "script"
    assert script_report.error is not None
    assert "PolicySignature" not in script_report.error
    assert "source" in script_report.error or "built-in class" in script_report.error
