"""Steps of networks that attend to their own past."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.conformance.zoo.network import Network, mlp


class Gate(nn.Module):
    """Gated recurrent unit in place of a residual connection (Parisotto et al. 2019, "Stabilizing Transformers")."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.of_new = nn.Linear(size, 3 * size, bias=False)
        self.of_old = nn.Linear(size, 2 * size, bias=False)
        self.of_reset = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), 2.0))

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        reset, update, candidate = self.of_new(new).chunk(3, -1)
        old_reset, old_update = self.of_old(old).chunk(2, -1)
        update = torch.sigmoid(update + old_update - self.bias)
        candidate = torch.tanh(candidate + self.of_reset(torch.sigmoid(reset + old_reset) * old))
        return (1 - update) * old + update * candidate


class GatedTransformerLayer(nn.Module):
    """Layer of GTrXL for one new step: relative attention to ``length`` earlier steps, then two dense layers."""

    positions: Tensor

    def __init__(self, size: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value, self.position, self.out = (
            nn.Linear(size, size, bias=False) for _ in range(5)
        )
        self.content_bias = nn.Parameter(0.1 * torch.randn(size))
        self.position_bias = nn.Parameter(0.1 * torch.randn(size))
        self.dense = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size), nn.ReLU())
        self.attention_gate, self.dense_gate = Gate(size), Gate(size)
        distance = torch.arange(length, -1, -1.0)[:, None] * torch.exp(torch.arange(0, size, 2) * (-8.0 / size))
        self.register_buffer("positions", torch.cat((distance.sin(), distance.cos()), -1))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        seen = self.before(torch.cat((memory, x.unsqueeze(1)), 1))  # [B, length + 1, size]
        query = self.query(seen[:, -1:])
        key, value = self._split(self.key(seen)), self._split(self.value(seen))
        position = self._split(self.position(self.positions).unsqueeze(0))
        scores = self._split(query + self.content_bias) @ key.transpose(-1, -2)
        scores = scores + self._split(query + self.position_bias) @ position.transpose(-1, -2)
        attended = torch.softmax(scores / math.sqrt(x.shape[-1] / self.heads), -1) @ value
        x = self.attention_gate(x, torch.relu(self.out(attended.transpose(1, 2).reshape(x.shape))))
        return self.dense_gate(x, self.dense(self.between(x)))

    def _split(self, tensor: Tensor) -> Tensor:
        """Return ``[B, heads, T, size / heads]``."""
        n, steps, size = tensor.shape
        return tensor.reshape(n, steps, self.heads, size // self.heads).transpose(1, 2)


class GatedTransformerStep(nn.Module):
    """Step of GTrXL: observation ``[B, inputs]`` and memory ``[B, layers, length, size]`` to logits and new memory."""

    def __init__(
        self, inputs: int = 12, size: int = 32, heads: int = 4, layers: int = 2, length: int = 8, actions: int = 6
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, size)
        self.layers = nn.ModuleList(GatedTransformerLayer(size, heads, length) for _ in range(layers))
        self.logits, self.value = nn.Linear(size, actions), nn.Linear(size, 1)

    def forward(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embed(observation)
        stored = []
        for i, layer in enumerate(self.layers):
            stored.append(torch.cat((memory[:, i, 1:], x.unsqueeze(1)), 1))
            x = layer(x, memory[:, i])
        return self.logits(x), self.value(x).squeeze(-1), torch.stack(stored, 1)


class CachedAttentionStep(nn.Module):
    """Step of a causal decoder with a KV cache of fixed length; ``filled`` counts the valid entries of each row."""

    def __init__(self, inputs: int = 6, size: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.embed, self.qkv, self.out = nn.Linear(inputs, size), nn.Linear(size, 3 * size), nn.Linear(size, 4)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n, length = keys.shape[0], keys.shape[1]
        query, key, value = self.qkv(torch.tanh(self.embed(x))).chunk(3, -1)
        place = torch.arange(length, device=x.device)
        here = (place == filled.unsqueeze(-1)).unsqueeze(-1)
        keys, values = torch.where(here, key.unsqueeze(1), keys), torch.where(here, value.unsqueeze(1), values)
        split = (n, length, self.heads, self.size // self.heads)
        scores = torch.einsum("bhd,blhd->bhl", query.reshape(n, self.heads, -1), keys.reshape(split))
        scores = scores.masked_fill((place > filled.unsqueeze(-1)).unsqueeze(1), float("-inf"))
        attention = torch.softmax(scores / (self.size // self.heads) ** 0.5, -1)
        attended = torch.einsum("bhl,blhd->bhd", attention, values.reshape(split)).reshape(n, self.size)
        return self.out(attended), keys, values, torch.clamp(filled + 1, max=length - 1)


class DecisionTransformerStep(nn.Module):
    """Decision transformer over the last steps: returns to go, observations and actions, interleaved (Chen 2021)."""

    def __init__(self, size: int = 16, length: int = 4) -> None:
        super().__init__()
        self.returns, self.observations, self.actions = nn.Linear(1, size), nn.Linear(5, size), nn.Embedding(4, size)
        self.times = nn.Embedding(64, size)
        layer = nn.TransformerEncoderLayer(size, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.logits = nn.Linear(size, 4)
        self.register_buffer("causal", torch.ones(3 * length, 3 * length).triu(1).bool())

    def forward(self, returns: Tensor, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        when = self.times(times)
        parts = (self.returns(returns.unsqueeze(-1)), self.observations(observations), self.actions(actions))
        tokens = torch.stack([part + when for part in parts], 2).flatten(1, 2)
        return self.logits(self.blocks(tokens, mask=self.causal)[:, -2])


class RotaryBlock(nn.Module):
    """Decoder block with RMSNorm, rotary positions, scaled_dot_product_attention and SwiGLU."""

    def __init__(self, size: int = 16, heads: int = 2, length: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.RMSNorm(size), nn.RMSNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.gate, self.up, self.down = nn.Linear(size, 24), nn.Linear(size, 24), nn.Linear(24, size)
        half = size // heads // 2
        angles = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def _rotated(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * self.cos - b * self.sin, a * self.sin + b * self.cos), -1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self._rotated(parts[0]), self._rotated(parts[1])
        attended = functional.scaled_dot_product_attention(query, key, parts[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y = self.second(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class PlainTransformer(nn.Module):
    """Torch's own encoder over a history, whose last step gives the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = mlp(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.logits = nn.Linear(16, 3)

    def forward(self, history: Tensor) -> Tensor:
        return self.logits(self.encoder(self.embed(history))[:, -1])


def _gtrxl(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 12), torch.randn(n, 2, 8, 32)


def _cached(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 6), torch.randn(n, 8, 16), torch.randn(n, 8, 16), torch.randint(0, 8, (n,))


def _decisions(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 4), torch.randn(n, 4, 5), torch.randint(0, 4, (n, 4)), torch.randint(0, 64, (n, 4))


NETWORKS = (
    Network("GTrXL step", GatedTransformerStep, _gtrxl, (1,)),
    Network("KV-cache step", CachedAttentionStep, _cached, (1, 2)),
    Network("decision transformer step", DecisionTransformerStep, _decisions),
    Network("RMSNorm, rotary positions, SwiGLU", RotaryBlock, lambda n: (torch.randn(n, 5, 16),)),
    Network("transformer encoder", PlainTransformer, lambda n: (torch.randn(n, 4, 5),)),
)
