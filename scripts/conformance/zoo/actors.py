"""Heads that choose actions. Randomness is an argument."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.conformance.zoo.network import Network, allowed, mlp, normal


class SquashedGaussian(nn.Module):
    """Actor and two critics of SAC (Haarnoja et al. 2018); the log-probability is corrected for tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critics = mlp(6, 32, 4), nn.ModuleList(mlp(8, 32, 1) for _ in range(2))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_std = self.actor(x).chunk(2, -1)
        log_std = torch.clamp(log_std, -20, 2)
        raw = mean + log_std.exp() * noise
        correction = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))
        log_p = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - correction).sum(-1)
        action = torch.tanh(raw)
        values = torch.cat([critic(torch.cat((x, action), -1)) for critic in self.critics], -1)
        return action, log_p, values.amin(-1)


class AutoregressiveHeads(nn.Module):
    """Three decisions, each drawn with Gumbel noise and given to the next head by an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 16)
        self.heads = nn.ModuleList(nn.Linear(16, size) for size in (3, 4, 5))
        self.embeddings = nn.ModuleList(nn.Embedding(size, 16) for size in (3, 4, 5))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        actions, log_ps, start = [], [], 0
        for head, embedding in zip(self.heads, self.embeddings, strict=True):
            log_p = torch.log_softmax(head(hidden), -1)
            action = (log_p + noise[:, start : start + log_p.shape[1]]).argmax(-1)
            start += log_p.shape[1]
            actions.append(action)
            log_ps.append(log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1))
            hidden = torch.tanh(hidden + embedding(action))
        return torch.stack(actions, -1), torch.stack(log_ps, -1).sum(-1)


class MixtureDensity(nn.Module):
    """Mixture of three Gaussians: parameters, and the log-density of a point."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(5, 32, 3 * 5)

    def forward(self, x: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        weights, mean, scale = torch.split(self.body(x), [3, 6, 6], -1)
        mean, scale = mean.unflatten(-1, (3, 2)), functional.softplus(scale.unflatten(-1, (3, 2))) + 1e-2
        z = (point.unsqueeze(1) - mean) / scale
        log_p = (-0.5 * z * z - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.logsumexp(torch.log_softmax(weights, -1) + log_p, -1), mean


class GumbelStraightThrough(nn.Module):
    """One-hot choice in the forward pass and a softmax in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.after = mlp(5, 16, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, noise: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.where(mask, self.logits(x), torch.finfo(torch.float32).min)
        soft = torch.softmax((logits + noise) / 0.5, -1)
        hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
        return self.after(hard - soft.detach() + soft), hard


class BetaHead(nn.Module):
    """Parameters of a Beta distribution above 1, its mode, and its log-density at a point."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(5, 16, 4)

    def forward(self, x: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (1 + functional.softplus(self.body(x))).chunk(2, -1)
        point = torch.sigmoid(point)
        log_p = (a - 1) * point.log() + (b - 1) * torch.log1p(-point)
        log_p = log_p - torch.lgamma(a) - torch.lgamma(b) + torch.lgamma(a + b)
        return (a - 1) / (a + b - 2 + 1e-6), log_p.sum(-1)


class Hypernetwork(nn.Module):
    """Weights of a layer that another network computes from a task."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = mlp(3, 16, 6 * 4 + 4)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        weight, bias = torch.split(self.weights(task), [24, 4], -1)
        return torch.tanh(torch.bmm(weight.unflatten(-1, (4, 6)), x.unsqueeze(-1)).squeeze(-1) + bias)


class VectorQuantized(nn.Module):
    """Index of the nearest entry of a codebook, and the entry."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.codes = mlp(5, 8), nn.Parameter(torch.randn(16, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        distance = x.pow(2).sum(-1, keepdim=True) - 2 * x @ self.codes.t() + self.codes.pow(2).sum(-1)
        index = distance.argmin(-1)
        return index, self.codes[index]


class CouplingFlow(nn.Module):
    """Two affine couplings from noise to an action, and the log-determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp(5 + 2, 16, 4) for _ in range(2))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        first, second = noise.chunk(2, -1)
        total = torch.zeros_like(noise[:, 0])
        for coupling in self.couplings:
            scale, offset = coupling(torch.cat((x, first), -1)).chunk(2, -1)
            scale = torch.tanh(scale)
            first, second = second * scale.exp() + offset, first
            total = total + scale.sum(-1)
        return torch.cat((first, second), -1), total


def _gumbel(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 5), torch.randn(n, 4), allowed(n, 4)


NETWORKS = (
    Network("SAC", SquashedGaussian, lambda n: (torch.randn(n, 6), torch.randn(n, 2))),
    Network("autoregressive heads", AutoregressiveHeads, lambda n: (torch.randn(n, 6), torch.randn(n, 12))),
    Network("mixture density", MixtureDensity, lambda n: (torch.randn(n, 5), torch.randn(n, 2))),
    Network("Gumbel, straight through", GumbelStraightThrough, _gumbel),
    Network("Beta distribution", BetaHead, lambda n: (torch.randn(n, 5), torch.randn(n, 2))),
    Network("hypernetwork", Hypernetwork, lambda n: (torch.randn(n, 6), torch.randn(n, 3))),
    Network("vector quantization", VectorQuantized, normal(5)),
    Network("coupling flow", CouplingFlow, lambda n: (torch.randn(n, 5), torch.randn(n, 4))),
)
