"""The smallest policy: quick to script, to export and to run."""

import torch
from torch import Tensor, nn

from shared.policy.signature import acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf


class TinyPolicy(nn.Module):
    """A vector in, one of three actions out; a float and an integer buffer beside its parameters."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.body = nn.Linear(4, hidden)
        self.head = nn.Linear(hidden, 3)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        logits = torch.log_softmax(self.head(torch.tanh(self.body(inputs[0]))) * self.scale, -1)
        action = (logits + inputs[1]).argmax(-1)
        return [action, logits.gather(-1, action.unsqueeze(-1)).squeeze(-1), logits.sum(-1)]


class OneRowAtATime(TinyPolicy):
    """Loops over its rows: right for every batch size, and another graph for each."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        logits = torch.cat([self.head(torch.tanh(self.body(row.unsqueeze(0)))) for row in inputs[0]])
        action = (logits + inputs[1]).argmax(-1)
        return [action, logits.gather(-1, action.unsqueeze(-1)).squeeze(-1), logits.sum(-1)]


TINY_SIGNATURE = acting_signature(
    (ObservationLeaf((), "box", "float32", (4,)),), ActionSpec("discrete", "int64", (), (3,), (0,))
)
