"""Policies whose outputs depend on more than one row and the weights, around a correct one."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from tests.support.agent_policies import make_policy


class AroundPolicy(nn.Module):
    """Correct policy; subclasses add a fault. Those with ``network`` lstm have two tensors of state."""

    network = "mlp"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.policy = make_policy(seed=seed, network=self.network)
        self.signature = self.policy.signature


class MixesRows(AroundPolicy):
    """Batch statistics."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        return self.policy([x - x.mean(0), inputs[1]])


class SumsOverRows(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([inputs[0].cumsum(0), inputs[1]])


class AttendsToOtherRows(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        return self.policy([torch.softmax(x @ x.t(), -1) @ x, inputs[1]])


class AddsItsFirstRow(AroundPolicy):
    """The log-probability alone shows it."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        return [action, log_prob + inputs[0][0, 0], value]


class ReversesLargeBatches(AroundPolicy):
    """Right for batches of less than 32 rows."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        if inputs[0].shape[0] >= 32:
            return self.policy([-inputs[0], inputs[1]])
        return self.policy(inputs)


class MixesRowsByWeights(AroundPolicy):
    """One program whose weights decide whether its rows influence each other."""

    def __init__(self, seed: int = 0, *, share: float = 1.0) -> None:
        super().__init__(seed)
        self.register_buffer("share", torch.tensor(share))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([inputs[0] + self.share * inputs[0].mean(0), inputs[1]])


class RefusesSingleRows(AroundPolicy):
    """A batch norm in training mode: one row has no variance."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([batch_norm(inputs[0], None, None, training=True), inputs[1]])


class MixesStates(AroundPolicy):
    network = "lstm"

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([inputs[0], inputs[1] - inputs[1].mean(0), inputs[2], inputs[3]])


class PassesStatesOn(AroundPolicy):
    """Each row is left with the state of its neighbour."""

    network = "lstm"

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value, h, c = self.policy(inputs)
        return [action, log_prob, value, h.roll(1, 0), c]


class CountsItsCalls(AroundPolicy):
    """The count, a buffer, changes the log-probability in its last digits."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        self.calls.add_(1.0)
        action, log_prob, value = self.policy(inputs)
        return [action, log_prob + 1e-5 * self.calls, value]


class CountsInSilence(CountsItsCalls):
    """No output shows the count yet."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        self.calls.add_(1.0)
        action, log_prob, value = self.policy(inputs)
        return [action, torch.where(self.calls > 1e6, -log_prob, log_prob), value]


class IsRandom(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        return [action, log_prob + 1e-5 * torch.rand_like(log_prob), value]


class OverwritesItsObservation(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy([inputs[0].mul_(2.0), inputs[1]])


ROW_MIXING = (
    MixesRows,
    SumsOverRows,
    AttendsToOtherRows,
    AddsItsFirstRow,
    ReversesLargeBatches,
    MixesStates,
    PassesStatesOn,
)
"""Refused because a row's outputs change with the other rows or their number."""

REASONS: dict[type[AroundPolicy], str] = {
    **dict.fromkeys(ROW_MIXING, "compute each row from that row alone"),
    RefusesSingleRows: "Expected more than 1 value per channel",
    CountsItsCalls: "remove random numbers and counters",
    CountsInSilence: "a call changed the weights",
    IsRandom: "remove random numbers and counters",
    OverwritesItsObservation: "copy an input before you change it: the program overwrote",
}
"""A part of the reason for which each is refused."""
