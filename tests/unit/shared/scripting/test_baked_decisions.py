"""A trace refuses Python decisions on data that change the computation, and no others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ScriptingError
from shared.scripting.baked_decisions import refuse_baked_decisions

ARGS = (torch.linspace(-1, 1, 12).reshape(3, 4), torch.ones(3, 4, dtype=torch.bool), torch.tensor(2))
Forward = Callable[["Net", Tensor, Tensor, Tensor], object]


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x
        return -x


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scripted = torch.jit.script(Positive())
        self.register_buffer("is_on", torch.tensor(True))
        self._forward = forward

    def forward(self, x: Tensor, mask: Tensor, n: Tensor) -> object:
        return self._forward(self, x, mask, n)


def seldom(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return -3 * net.layer(x) if x.min() > 0.5 else net.layer(x)


def clipped(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x / 10 if x.abs().max().item() > 10 else x)


def masked(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    y = net.layer(x)
    return y if mask.all() else y.masked_fill(~mask, -1e9)


def other_limits(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return x.clamp(max=10 if x.sum() > 5 else 20)


def repeated(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    for _ in range(int(n)):
        x = net.layer(x)
    return x


def after_a_scripted_piece(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    y = net.scripted(x)
    return y * 2 if y.sum() > 0 else y


def written_into(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    zeros = torch.zeros(4)
    zeros[:] = x[0]
    return x * 2 if zeros.sum() > 0 else x


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (seldom, "boolean"),
        (clipped, "number"),
        (masked, "boolean"),
        (other_limits, "boolean"),
        (repeated, "number"),
        (after_a_scripted_piece, "boolean"),
        (written_into, "boolean"),
    ],
)
def test_a_decision_on_data_is_refused_with_its_place(forward: Forward, kind: str) -> None:
    said = rf"Converting a tensor to a Python {kind} .* and {forward.__name__} \(.*{__name__.split('.')[-1]}\.py:\d+\)"
    with pytest.raises(ScriptingError, match=said):
        refuse_baked_decisions(Net(forward), ARGS, {})


def on_sizes(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.layer(x * 2 if x.shape[0] > 2 and x.size(1) == 4 and len(x) > 1 else x)


def on_a_buffer(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return x * 2 if net.is_on and torch.ones(3).sum() > 2 else x


def guarded(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    if torch.isnan(x).any():
        raise ValueError("expected numbers")
    return net.layer(x)


def a_distribution(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    drawn_from = torch.distributions.Categorical(logits=net.layer(x))  # checks its arguments
    return drawn_from.log_prob(x.argmax(-1)), drawn_from.entropy()


def remarked(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    if x.sum() > 0:
        "positive"
    return net.layer(x)


def decided_by_a_scripted_piece(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
    return net.scripted(net.layer(x))


@pytest.mark.parametrize(
    "forward", [on_sizes, on_a_buffer, guarded, a_distribution, remarked, decided_by_a_scripted_piece]
)
def test_modules_without_decisions_on_data_are_accepted(forward: Forward) -> None:
    refuse_baked_decisions(Net(forward), ARGS, {})


def test_arguments_are_not_changed() -> None:
    def writes(net: Net, x: Tensor, mask: Tensor, n: Tensor) -> Tensor:
        return x.add_(1)

    before = ARGS[0].clone()
    refuse_baked_decisions(Net(writes), ARGS, {})
    assert torch.equal(ARGS[0], before)
