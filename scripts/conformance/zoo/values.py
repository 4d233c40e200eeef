"""Networks of values, of their distributions, and of what is still unknown."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from scripts.conformance.zoo.network import Network, mlp, normal


class Dueling(nn.Module):
    """Value and advantages side by side (Wang et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.advantage = mlp(5, 32, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(-1, keepdim=True)


class NoisyLinear(nn.Module):
    """Linear layer with factorised noise (Fortunato et al. 2018), which in evaluation is its mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.deviation = nn.Parameter(torch.full((outputs, inputs), 0.1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mean
        if self.training:
            row, column = torch.randn(weight.shape[0], 1), torch.randn(1, weight.shape[1])
            weight = weight + self.deviation * (row.sign() * row.abs().sqrt()) * (column.sign() * column.abs().sqrt())
        return functional.linear(x, weight, self.bias)


class NoisyNet(nn.Module):
    """Network of noisy layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = NoisyLinear(5, 16), NoisyLinear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class CategoricalValues(nn.Module):
    """C51 (Bellemare et al. 2017): a distribution over 51 atoms for each action, and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(5, 32, 4 * 51)
        self.register_buffer("atoms", torch.linspace(-10, 10, 51))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(self.body(x).unflatten(-1, (4, 51)), -1)
        return (p * self.atoms).sum(-1), p


class QuantileValues(nn.Module):
    """QR-DQN: 32 quantiles for each action, and the greedy action (Dabney et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(5, 32, 4 * 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantiles = self.body(x).unflatten(-1, (4, 32))
        return quantiles.sort(-1).values, quantiles.mean(-1).argmax(-1)


class ImplicitQuantiles(nn.Module):
    """IQN: the quantiles at given fractions, which are embedded by cosines (Dabney et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.cosines, self.head = mlp(5, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("steps", math.pi * torch.arange(16.0))

    def forward(self, x: Tensor, fractions: Tensor) -> Tensor:
        embedded = torch.relu(self.cosines(torch.cos(fractions.unsqueeze(-1) * self.steps)))
        return self.head(self.body(x).unsqueeze(1) * embedded)


class QuantileFractions(nn.Module):
    """FQF: fractions proposed by a cumulated softmax, and their middles (Yang et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(5, 16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(self.body(x), -1)
        ends = functional.pad(log_p.exp().cumsum(-1), (1, 0))
        return (ends[:, 1:] + ends[:, :-1]) / 2, -(log_p.exp() * log_p).sum(-1)


class VmapEnsemble(nn.Module):
    """Five critics, evaluated in one call by ``torch.func.vmap`` over their stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        members = [mlp(6, 16, 1) for _ in range(5)]
        weights, _ = stack_module_state(members)
        self.weights = nn.ParameterDict({name.replace(".", "_"): value.detach() for name, value in weights.items()})
        self.names = {name.replace(".", "_"): name for name in weights}
        self.base = [copy.deepcopy(members[0]).to("meta")]  # in a list: its weights are none of the module's

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        weights = {self.names[name]: value for name, value in self.weights.items()}

        def call(own: dict[str, Tensor], joined: Tensor) -> Tensor:
            return functional_call(self.base[0], own, (joined,))

        values = vmap(call, in_dims=(0, None), randomness="error")(weights, torch.cat((x, action), -1))
        return values.squeeze(-1).amin(0)


class RandomDistillation(nn.Module):
    """Novelty of an observation: the error of a predictor of a random network (Burda et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.target, self.predictor = mlp(6, 16, 8), mlp(6, 16, 16, 8)
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("deviation", torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp((x - self.mean) / self.deviation, -5, 5)
        return (self.predictor(x) - self.target(x).detach()).pow(2).mean(-1)


class WorldModelHeads(nn.Module):
    """Heads of DreamerV3: symlog inputs, reward as two-hot over symexp bins, a continuation probability."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.reward, self.goes_on = mlp(6, 32, 32), nn.Linear(32, 41), nn.Linear(32, 1)
        bins = torch.linspace(-8, 8, 41)
        self.register_buffer("bins", bins.sign() * bins.abs().expm1())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(torch.sign(x) * torch.log1p(torch.abs(x)))
        p = torch.softmax(self.reward(x), -1)
        return {"reward": (p * self.bins).sum(-1), "continue": torch.sigmoid(self.goes_on(x)).squeeze(-1)}


NETWORKS = (
    Network("dueling network", Dueling, normal(5)),
    Network("noisy network", NoisyNet, normal(5)),
    Network("C51", CategoricalValues, normal(5)),
    Network("QR-DQN", QuantileValues, normal(5)),
    Network("IQN", ImplicitQuantiles, lambda n: (torch.randn(n, 5), torch.rand(n, 8))),
    Network("FQF fractions", QuantileFractions, normal(5)),
    Network("vmap ensemble", VmapEnsemble, lambda n: (torch.randn(n, 4), torch.randn(n, 2))),
    Network("random network distillation", RandomDistillation, normal(6)),
    Network("world model heads", WorldModelHeads, normal(6)),
)
