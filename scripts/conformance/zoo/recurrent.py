"""Steps of recurrent networks and state-space models: the state is an argument and a result."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.conformance.zoo.network import Network


class LstmStep(nn.Module):
    """Two layers of ``nn.LSTM``, called for one step with the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 16, 2), nn.Linear(16, 3)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = (hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        out, (hidden, cell) = self.lstm(x.unsqueeze(0), before)
        return self.head(out[0]), hidden.transpose(0, 1), cell.transpose(0, 1)


class GruSequence(nn.Module):
    """``nn.GRU`` in both directions over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(5, 12, batch_first=True, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0].mean(1))


class MinGruStep(nn.Module):
    """minGRU (Feng et al. 2024): gates of the input alone, candidates that are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(5, 32), nn.Linear(16, 3)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate = self.gates(x).chunk(2, -1)
        candidate = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        hidden = torch.lerp(hidden, candidate, gate.sigmoid())
        return self.head(hidden), hidden


class HyperLstmStep(nn.Module):
    """HyperLSTM (Ha et al. 2016): a small LSTM scales the gates of a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.scale = nn.LSTMCell(5 + 16, 6), nn.Linear(6, 64)
        self.gates, self.norm = nn.Linear(5 + 16, 64), nn.LayerNorm(16)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor], small: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        joined = torch.cat((x, state[0]), -1)
        small = self.small(joined, small)
        i, f, g, o = (self.gates(joined) * (1 + self.scale(small[0]))).chunk(4, -1)
        cell = torch.sigmoid(f + 1) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(self.norm(cell))
        return hidden, (hidden, cell), small


class MambaStep(nn.Module):
    """Step of a selective state-space model (Gu and Dao 2023): a causal convolution, then a scan's one update."""

    def __init__(self, size: int = 8, inner: int = 16, states: int = 4, width: int = 4) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(size, 2 * inner), nn.Linear(inner, size)
        self.kernel = nn.Parameter(0.5 * torch.randn(inner, width))
        self.select, self.rate = nn.Linear(inner, 2 * states + 1), nn.Linear(1, inner)
        self.log_decay = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor, window: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gate = self.into(x).chunk(2, -1)
        window = torch.cat((window[..., 1:], x.unsqueeze(-1)), -1)
        x = functional.silu((window * self.kernel).sum(-1))
        rate, write, read = torch.split(self.select(x), [1, state.shape[-1], state.shape[-1]], -1)
        rate = functional.softplus(self.rate(rate)).unsqueeze(-1)
        state = torch.exp(-rate * self.log_decay.exp()) * state + rate * write.unsqueeze(1) * x.unsqueeze(-1)
        y = (state * read.unsqueeze(1)).sum(-1) + self.skip * x
        return self.out(y * functional.silu(gate)), window, state


class DiagonalStateSpaceStep(nn.Module):
    """Step of S4D in real numbers: each state is a decaying rotation."""

    def __init__(self, size: int = 6, states: int = 4) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.randn(size, states))
        self.angle = nn.Parameter(torch.randn(size, states))
        self.read = nn.Parameter(torch.randn(2, size, states))
        self.head = nn.Linear(size, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        decay = torch.exp(-functional.softplus(self.log_decay))
        cos, sin = decay * self.angle.cos(), decay * self.angle.sin()
        real, imaginary = state[:, 0], state[:, 1]
        state = torch.stack((real * cos - imaginary * sin + x.unsqueeze(-1), real * sin + imaginary * cos), 1)
        return self.head(torch.tanh((state * self.read).sum((1, 3)))), state


class StateSpaceModel(nn.Module):
    """Recurrent state-space model of DreamerV2: a GRU, and 4 x 4 categories drawn from noise, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.gru = nn.Linear(16 + 3, 16), nn.GRUCell(16, 16)
        self.prior, self.posterior = nn.Linear(16, 16), nn.Linear(16 + 5, 16)

    def forward(
        self, embedded: Tensor, action: Tensor, state: dict[str, Tensor], noise: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        deter = self.gru(functional.elu(self.into(torch.cat((state["stoch"], action), -1))), state["deter"])
        logits = self.posterior(torch.cat((deter, embedded), -1)).unflatten(-1, (4, 4))
        p = 0.99 * torch.softmax(logits, -1) + 0.01 / 4
        drawn = functional.one_hot((p.log() + noise).argmax(-1), 4).to(p.dtype)
        stoch = (drawn + p - p.detach()).flatten(1)
        return {"deter": deter, "stoch": stoch}, self.prior(deter)


class ScriptedLoop(nn.Module):
    """Loop over the steps of a sequence with a decision in it, which only scripting keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 8), nn.Linear(8, 2)

    def forward(self, steps: Tensor) -> Tensor:
        hidden = torch.zeros(steps.shape[0], 8)
        for i in range(steps.shape[1]):
            x = steps[:, i]
            if i % 2 == 1:
                x = -x
            hidden = self.cell(x, hidden)
        return self.head(hidden)


def _hyper(n: int) -> tuple[object, ...]:
    large, small = ((torch.randn(n, size), torch.randn(n, size)) for size in (16, 6))
    return torch.randn(n, 5), large, small


def _mamba(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 8), torch.randn(n, 16, 4), torch.randn(n, 16, 4)


def _world(n: int) -> tuple[object, ...]:
    state = {"deter": torch.randn(n, 16), "stoch": torch.randn(n, 16)}
    return torch.randn(n, 5), torch.randn(n, 3), state, torch.randn(n, 4, 4)


NETWORKS = (
    Network("LSTM", LstmStep, lambda n: (torch.randn(n, 5), torch.randn(n, 2, 16), torch.randn(n, 2, 16)), (1, 2)),
    Network("GRU in both directions", GruSequence, lambda n: (torch.randn(n, 6, 5),)),
    Network("minGRU step", MinGruStep, lambda n: (torch.randn(n, 5), torch.randn(n, 16)), (1,)),
    Network("HyperLSTM step", HyperLstmStep, _hyper, (1, 2)),
    Network("Mamba step", MambaStep, _mamba, (1, 2)),
    Network("S4D step", DiagonalStateSpaceStep, lambda n: (torch.randn(n, 6), torch.randn(n, 2, 6, 4)), (1,)),
    Network("RSSM", StateSpaceModel, _world, (2,)),
    Network("loop with a decision", ScriptedLoop, lambda n: (torch.randn(n, 5, 4),)),
)
