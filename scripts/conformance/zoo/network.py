"""One kind of network, and tensors of a batch drawn for it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[[int], tuple[Any, ...]]


@dataclass(frozen=True)
class Network:
    """A kind of network: ``make()`` returns the module, ``draw(n)`` the positional arguments for ``n`` rows.

    Every tensor has the batch in its first dimension, and every row is computed from that row alone. ``states`` are the
    positions of recurrent states, which no environment sends. ``refused`` is a part of the message with which an export
    is refused, for a kind that no version can hold. ``needs`` is a package beyond the project's own.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    states: tuple[int, ...] = ()
    refused: str = ""
    needs: str = ""


def normal(*shape: int) -> Draw:
    """Return a function that draws one tensor of normal numbers with rows of ``shape``."""
    return lambda n: (torch.randn(n, *shape),)


def pixels(n: int, *shape: int) -> Tensor:
    """Return ``n`` images of bytes."""
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8)


def allowed(n: int, *shape: int) -> Tensor:
    """Return ``n`` masks in which about half is allowed, and always the first."""
    mask = torch.rand(n, *shape) < 0.5
    mask[..., 0] = True
    return mask


def mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers of ``sizes`` with tanh between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])
