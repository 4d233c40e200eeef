"""Modules with the documented failures: each in the least code that provokes the real message, annotated or not."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

SOURCE = """
import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))
"""
"""A module that every method can export, wherever its source is found."""


class _OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)


class LambdaNet(_OneLayer):
    """Keeps a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.squash = lambda x: x.tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.layer(x))


class InnerLambdaNet(LambdaNet):
    """Makes a lambda in forward."""

    def forward(self, x: Tensor) -> Tensor:
        squash = lambda y: y.tanh()  # noqa: E731 - it is what the documents mean
        return squash(self.layer(x))


@dataclasses.dataclass
class Sensors:
    """An observation."""

    body: Tensor
    camera: Tensor


class DataclassNet(_OneLayer):
    """Takes a dataclass, and is annotated with it."""

    def forward(self, sensors: Sensors) -> Tensor:
        return self.layer(sensors.body) + sensors.camera.mean(dim=(1, 2)).unsqueeze(-1)


class NotebookNet(nn.Module):
    """The document's network: ``[feature, legal_action, (hidden, cell)]`` in; the same in another order out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 8)
        self.logits = nn.Linear(8, 3)
        self.value = nn.Linear(8, 1)

    def forward(self, inputs):
        feature, legal_action, state = inputs
        hidden, cell = self.cell(feature, state)
        logits = self.logits(hidden).masked_fill(~legal_action, -1e8)
        return [logits, (hidden, cell), self.value(hidden)]


class MixedOutputNet(_OneLayer):
    """Returns a tensor, None and a number."""

    def forward(self, x):
        return self.layer(x), None, 3


class ThroughNumpy(nn.Module):
    """Computes in numpy, which no program can."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2) + x


class Configured(_OneLayer):
    """Keeps an object of a type that TorchScript does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.config.scale


class ListIndexing(nn.Module):
    """Indexes a list of tensors."""

    def forward(self, parts: list[Tensor]) -> Tensor:
        return parts[0] * parts[-1] + torch.stack(parts[1:]).sum(0)


class RowLoop(nn.Module):
    """Loops over the rows of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[0])
        for i in range(x.shape[0]):
            total = total + x[i]
        return x + total


class Undecided(nn.Module):
    """Branches on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.sum() > 0:
            return y
        return -y


class Squashed(_OneLayer):
    """A plain module for torch.compile and batches of several sizes."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.layer(inputs[0]).tanh()]


class Recurrent(nn.Module):
    """An LSTM whose state is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(x, state)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the module in eval mode, with the same weights each time."""
    torch.manual_seed(0)
    return make().eval()
