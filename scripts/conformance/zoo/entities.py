"""Networks over sets: units, candidates, experts, graphs."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.conformance.zoo.network import Network, allowed, mlp

HERO_ACTIONS = (12, 16, 16, 16, 16, 8)  # button, move x and z, skill x and z, target


class HeroNetwork(nn.Module):
    """Policy in the form of the baseline of hok_env: units with shared layers, an LSTM, one head for each decision.

    The units of each kind are encoded alike and reduced by a maximum. The last head scores the units by attention:
    its query comes from the LSTM, its keys from the units. Illegal actions get a large negative number.
    """

    def __init__(self, features: int = 6, size: int = 16, hidden: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.heroes, self.soldiers, self.towers = (
            nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, size), nn.ReLU()) for _ in range(3)
        )
        self.query, self.key, self.value = nn.Linear(8, size), nn.Linear(size, size), nn.Linear(size, size)
        self.joined = nn.Sequential(nn.Linear(4 * size + 8, hidden), nn.ReLU())
        self.lstm = nn.LSTMCell(hidden, hidden)
        self.decisions = nn.ModuleList(nn.Linear(hidden, n) for n in HERO_ACTIONS[:-1])
        self.target_query, self.target_key = nn.Linear(hidden, size), nn.Linear(size, size)
        self.critic = nn.Linear(hidden, 1)

    def forward(
        self, units: Tensor, present: Tensor, own: Tensor, legal: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[list[Tensor], Tensor, tuple[Tensor, Tensor]]:
        heroes, soldiers, towers = self.heroes(units[:, :2]), self.soldiers(units[:, 2:6]), self.towers(units[:, 6:])
        everyone = torch.cat((heroes, soldiers, towers), 1)  # [B, 8, size]
        n, width = units.shape[0], self.size // self.heads
        query = self.query(own).reshape(n, self.heads, 1, width)
        key, value = (
            layer(everyone).reshape(n, 8, self.heads, width).transpose(1, 2) for layer in (self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / width**0.5
        scores = torch.where(present[:, None, None, :], scores, -1e8)
        attended = (torch.softmax(scores, -1) @ value).reshape(n, self.size)
        pooled = [group.amax(1) for group in (heroes, soldiers, towers)]
        hidden, cell = self.lstm(self.joined(torch.cat((own, attended, *pooled), -1)), state)
        logits = [head(hidden) for head in self.decisions]
        target_query = self.target_query(hidden).unsqueeze(-1)
        logits.append((self.target_key(everyone) @ target_query).squeeze(-1))
        masked = torch.where(legal, torch.cat(logits, -1), -1e8)
        return list(masked.split(HERO_ACTIONS, -1)), self.critic(hidden).squeeze(-1), (hidden, cell)


class SetTransformer(nn.Module):
    """Set transformer with induced points and pooling by attention (Lee et al. 2019)."""

    def __init__(self, features: int = 4, size: int = 16, points: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(features, size)
        self.points = nn.Parameter(torch.randn(1, points, size))
        self.seed = nn.Parameter(torch.randn(1, 1, size))
        self.gather, self.spread, self.pool = (nn.MultiheadAttention(size, 2, batch_first=True) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.out = nn.Linear(size, 3)

    def forward(self, elements: Tensor, padding: Tensor) -> Tensor:
        x = self.embed(elements)
        points = self.points.expand(x.shape[0], -1, -1)
        induced = self.norms[0](points + self.gather(points, x, x, key_padding_mask=padding, need_weights=False)[0])
        x = self.norms[1](x + self.spread(x, induced, induced, need_weights=False)[0])
        seed = self.seed.expand(x.shape[0], -1, -1)
        return self.out(self.pool(seed, x, x, key_padding_mask=padding, need_weights=False)[0].squeeze(1))


class PointerNetwork(nn.Module):
    """Scores of candidates by additive attention (Vinyals et al. 2015), with the choice's own features."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(5, 16, batch_first=True)
        self.of_candidate, self.of_query, self.score = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, candidates: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        encoded, last = self.encoder(candidates)
        scores = self.score(torch.tanh(self.of_candidate(encoded) + self.of_query(last[0]).unsqueeze(1))).squeeze(-1)
        log_p = torch.log_softmax(scores.masked_fill(~valid, -1e8), -1)
        choice = log_p.argmax(-1)
        return log_p, encoded.gather(1, choice[:, None, None].expand(-1, 1, 16)).squeeze(1)


class ActionEmbedding(nn.Module):
    """Logits as products of the state's and the actions' embeddings, for the candidates of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.actions, self.trunk = nn.Embedding(50, 8), mlp(6, 32, 8)

    def forward(self, observation: Tensor, candidates: Tensor) -> Tensor:
        return (self.actions(candidates) @ self.trunk(observation).unsqueeze(-1)).squeeze(-1)


class MixtureOfExperts(nn.Module):
    """Sparse mixture: each row uses its two best experts, gathered by index."""

    def __init__(self, experts: int = 4, size: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(size, experts)
        self.weights = nn.Parameter(0.3 * torch.randn(experts, size, 16))
        self.outs = nn.Parameter(0.3 * torch.randn(experts, 16, 3))

    def forward(self, x: Tensor) -> Tensor:
        best, index = self.router(x).topk(2, -1)
        share = torch.softmax(best, -1)
        hidden = torch.relu(torch.einsum("bi,bkih->bkh", x, self.weights[index]))
        return (torch.einsum("bkh,bkho->bko", hidden, self.outs[index]) * share.unsqueeze(-1)).sum(1)


class GraphNetwork(nn.Module):
    """Two rounds of messages over a dense adjacency matrix, normalised by degree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        adjacency = edges.float() + torch.eye(edges.shape[-1])
        scale = adjacency.sum(-1).rsqrt()
        adjacency = adjacency * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        x = functional.elu(adjacency @ self.first(nodes))
        x = functional.elu(adjacency @ self.second(x))
        return self.out(x.mean(1))


class RelationNetwork(nn.Module):
    """Sums a network over all pairs of objects (Santoro et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.out = mlp(8, 16, 16), nn.Linear(16, 3)

    def forward(self, objects: Tensor) -> Tensor:
        n, count, _ = objects.shape
        first = objects.unsqueeze(2).expand(n, count, count, -1)
        second = objects.unsqueeze(1).expand(n, count, count, -1)
        return self.out(self.pairs(torch.cat((first, second), -1)).sum((1, 2)))


def _hero(n: int) -> tuple[object, ...]:
    state = (0.5 * torch.randn(n, 32), 0.5 * torch.randn(n, 32))
    return torch.randn(n, 8, 6), allowed(n, 8), torch.randn(n, 8), allowed(n, sum(HERO_ACTIONS)), state


NETWORKS = (
    Network("heads of hok_env", HeroNetwork, _hero, (4,)),
    Network("set transformer", SetTransformer, lambda n: (torch.randn(n, 6, 4), ~allowed(n, 6))),
    Network("pointer network", PointerNetwork, lambda n: (torch.randn(n, 6, 5), allowed(n, 6))),
    Network("action embedding", ActionEmbedding, lambda n: (torch.randn(n, 6), torch.randint(0, 50, (n, 7)))),
    Network("sparse mixture of experts", MixtureOfExperts, lambda n: (torch.randn(n, 8),)),
    Network("graph network, dense adjacency", GraphNetwork, lambda n: (torch.randn(n, 5, 4), allowed(n, 5, 5))),
    Network("relation network", RelationNetwork, lambda n: (torch.randn(n, 4, 4),)),
)
