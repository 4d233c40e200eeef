"""Stand-ins for torch's distributions, which record their parameters and draw the most likely action.

A trace of a real distribution would hold checks of its arguments and random numbers. A function calls the stand-ins if
its global names ``Categorical``, ``Normal`` or ``torch.distributions`` are replaced, in a copy of the function.
"""

from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shared.errors import ConfigurationError


@dataclass
class Recorded:
    """The parameters of the distributions that one call constructs, in order."""

    logits: list[Tensor] = field(default_factory=list)
    gaussians: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class CategoricalStandIn:
    """Stand-in for ``torch.distributions.Categorical``: records its logits, and draws the most likely action."""

    def __init__(
        self, recorded: Recorded, probs: Tensor | None = None, logits: Tensor | None = None, **_: object
    ) -> None:
        if logits is None:
            if probs is None:
                raise ConfigurationError("expected Categorical(probs) or Categorical(logits=...)")
            logits = probs.log()
        recorded.logits.append(logits)
        self.logits = torch.log_softmax(logits, -1)
        self.probs = self.logits.exp()

    def sample(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.logits.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum(-1)


class NormalStandIn:
    """Stand-in for ``torch.distributions.Normal``: records its parameters, and draws its mean."""

    def __init__(self, recorded: Recorded, loc: Tensor, scale: Tensor, **_: object) -> None:
        recorded.gaussians.append((loc, scale))
        self.loc = self.mean = loc
        self.scale = self.stddev = scale

    def sample(self) -> Tensor:
        return self.loc

    rsample = sample

    def log_prob(self, value: Tensor) -> Tensor:
        deviation = (value - self.loc) / self.scale
        return -0.5 * deviation * deviation - self.scale.log() - 0.9189385332046727

    def entropy(self) -> Tensor:
        return 1.4189385332046727 + self.scale.log()


class _TorchStandIn:
    """``torch`` with other ``distributions``."""

    def __init__(self, distributions: object) -> None:
        self.distributions = distributions

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _length(value: Any) -> Any:
    # len() of a tensor is a number, which would fix the batch size of a program.
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def with_stand_ins(function: FunctionType, recorded: Recorded) -> FunctionType:
    """Return ``function`` with the distributions of its globals replaced. The globals themselves do not change."""
    categorical, normal = partial(CategoricalStandIn, recorded), partial(NormalStandIn, recorded)
    inside = SimpleNamespace(
        Categorical=categorical,
        Normal=normal,
        categorical=SimpleNamespace(Categorical=categorical),
        normal=SimpleNamespace(Normal=normal),
    )
    replaced: list[tuple[object, object]] = [
        (torch.distributions.Categorical, categorical),
        (torch.distributions.Normal, normal),
        (torch.distributions, inside),
        (torch, _TorchStandIn(inside)),
    ]
    names = {name: new for name, value in function.__globals__.items() for old, new in replaced if value is old}
    with_names = {**function.__globals__, "len": _length, **names}
    return FunctionType(function.__code__, with_names, function.__name__, function.__defaults__, function.__closure__)
