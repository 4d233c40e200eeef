"""An edited program is noticed; training, which changes weights, is not an edit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.publishing.program_fingerprint import ProgramFingerprint

FACTOR = 2.0


def scaled(x: Tensor) -> Tensor:
    return x * FACTOR


def shifted(x: Tensor) -> Tensor:
    return scaled(x) + 1


class Network(nn.Module):
    offset = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.temperature = 1.0
        self.limits = {"low": [-1.0, np.float32(1.0)]}
        self.order = np.arange(4)
        self.calls = 0
        self.unread = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = x
        return self._head((x - self.mean)[:, self.order]) + self.offset

    def _head(self, x: Tensor) -> Tensor:
        low, high = self.limits["low"]
        return shifted(self.layers(x.clamp(low, high)) / self.temperature)


class Other(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_training_is_no_change() -> None:
    module = Network()
    program = ProgramFingerprint(module)
    for _ in range(3):
        module.train()
        module(torch.randn(5, 4)).sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.1 * torch.ones_like(parameter))
        module.eval()
        module.mean = module.mean + 1
        module.unread += 1
        assert program.changes() == []


def set_attribute(name: str, value: Any) -> Callable[[Network], None]:
    return lambda module: setattr(module, name, value)


def forward_of_the_instance(module: Network) -> None:
    module.forward = lambda x: x  # type: ignore[method-assign]


EDITS: dict[str, tuple[Callable[[Network], None], str]] = {
    "another class": (set_attribute("__class__", Other), "self"),
    "another activation": (lambda module: module.layers.__setitem__(1, nn.ReLU()), "layers.1"),
    "another layer": (lambda module: module.layers.__setitem__(3, nn.Linear(8, 3, bias=False)), "layers.3.bias"),
    "another shape": (lambda module: module.layers.__setitem__(0, nn.Linear(4, 9)), "layers.0.weight"),
    "another dtype": (lambda module: module.double() and None, "layers.0.weight"),
    "another probability": (lambda module: setattr(module.layers[2], "p", 0.2), "layers.2.p"),
    "an attribute": (set_attribute("temperature", 0.5), "self.temperature"),
    "an item in an attribute": (lambda module: module.limits["low"].__setitem__(0, -2.0), "self.limits"),
    "an array's element": (lambda module: module.order.__setitem__(0, 3), "self.order"),
    "a hook": (lambda module: module.register_forward_hook(print) and None, "self: hooks"),
    "forward of the instance": (forward_of_the_instance, "self.forward"),
}


@pytest.mark.parametrize(("edit", "changed"), EDITS.values(), ids=EDITS)
def test_an_edit_of_the_module_is_named(edit: Callable[[Network], None], changed: str) -> None:
    module = Network()
    program = ProgramFingerprint(module)
    edit(module)
    assert changed in program.changes()
    program.accept()
    assert program.changes() == []


@pytest.mark.parametrize(
    ("owner", "name", "value", "changed"),
    [
        (Network, "_head", lambda _, x: x, "Network._head"),
        (Network, "offset", 1.0, "Network.offset"),
        (__name__, "FACTOR", 3.0, f"{__name__}.FACTOR"),
        (__name__, "scaled", shifted, ".scaled"),
    ],
)
def test_an_edit_of_the_code_is_named(
    owner: Any, name: str, value: Any, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ProgramFingerprint(Other())
    if isinstance(owner, str):
        monkeypatch.setitem(globals(), name, value)
    else:
        monkeypatch.setattr(owner, name, value)
    changes = program.changes()
    assert any(changed in each for each in changes), changes


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_of_the_library_can_be_of_any_kind() -> None:
    layers = [
        torch.jit.script(nn.Linear(4, 4)),
        torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.LSTM(4, 4),
        nn.MultiheadAttention(4, 2),
        nn.TransformerEncoderLayer(4, 2, 8),
        nn.Conv2d(3, 4, 2),
    ]
    program = ProgramFingerprint(nn.ModuleList(layers))
    assert program.changes() == []
