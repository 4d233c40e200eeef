"""Encoders, which turn observations into features, and cores, which turn features into head and value.

Every core, feed-forward or recurrent, has the form ``core(features, state) -> (head, value, next state)`` with features
``[N, n]``, head ``[N, P]`` and value ``[N]``, float32. All modules can be scripted, traced and exported.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.networks.network_config import Activation, NetworkConfig
from shared.policy.spaces import ObservationLeaf, Path

_HEAD_GAIN = 0.01  # the initial policy is nearly uniform (Andrychowicz et al. 2021, "What matters for on-policy RL")


def orthogonal(linear: nn.Linear | nn.Conv2d, gain: float, generator: torch.Generator | None) -> None:
    """Initialise in place: orthogonal weights (Saxe et al. 2014) scaled by ``gain``, zero biases."""
    nn.init.orthogonal_(linear.weight, gain, generator=generator)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _activation(kind: Activation) -> nn.Module:
    return nn.Tanh() if kind == "tanh" else nn.ReLU()


def mlp(sizes: list[int], activation: Activation, generator: torch.Generator | None) -> nn.Sequential:
    """Return linear layers of ``sizes`` (inputs first), with ``activation`` after each but the last."""
    gain = nn.init.calculate_gain(activation)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        orthogonal(linear, gain, generator)
        layers += [linear, _activation(activation)]
    return nn.Sequential(*layers[:-1])


def _init_head(linear: nn.Linear, head_size: int, generator: torch.Generator | None) -> None:
    with torch.no_grad():
        nn.init.zeros_(linear.bias)
        if head_size:
            nn.init.orthogonal_(linear.weight[:head_size], _HEAD_GAIN, generator=generator)
        if head_size < linear.out_features:
            nn.init.orthogonal_(linear.weight[head_size:], 1.0, generator=generator)


class BoxEncoder(nn.Module):
    """Flattened numbers, unchanged."""

    def __init__(self, leaf: ObservationLeaf) -> None:
        super().__init__()
        self.size = math.prod(leaf.shape)

    def forward(self, observation: Tensor) -> Tensor:
        return observation.flatten(1).to(torch.float32)


class NormalizedBoxEncoder(nn.Module):
    """Flattened numbers, normalised by running moments that the learner updates, and clipped to [-10, 10]."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, leaf: ObservationLeaf) -> None:
        super().__init__()
        self.size = math.prod(leaf.shape)
        self.bound = 10.0
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("inverse_std", torch.ones(self.size))

    def forward(self, observation: Tensor) -> Tensor:
        centred = observation.flatten(1).to(torch.float32) - self.mean
        return (centred * self.inverse_std).clamp(-self.bound, self.bound)


class OneHotEncoder(nn.Module):
    """One-hot encoding of discrete numbers, side by side."""

    def __init__(self, leaf: ObservationLeaf) -> None:
        super().__init__()
        self.cardinalities = list(leaf.cardinalities)
        self.starts = list(leaf.start)
        self.size = sum(self.cardinalities)

    def forward(self, observation: Tensor) -> Tensor:
        columns = observation.reshape([-1, len(self.starts)])
        parts = [
            functional.one_hot(columns[:, i] - start, self.cardinalities[i]) for i, start in enumerate(self.starts)
        ]
        return torch.cat(parts, -1).to(torch.float32)


class ImageEncoder(nn.Module):
    """CNN over ``uint8`` images, scaled to [0, 1]: that of Mnih et al. 2015 for images of at least 36 x 36 pixels."""

    def __init__(self, leaf: ObservationLeaf, generator: torch.Generator | None) -> None:
        super().__init__()
        self.channels_last = leaf.shape[2] < leaf.shape[0]
        n_channels, height, width = (leaf.shape[2], *leaf.shape[:2]) if self.channels_last else leaf.shape
        large = min(height, width) >= 36
        plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if large else [(16, 3, 2), (32, 3, 2)]
        layers: list[nn.Module] = []
        channels = n_channels
        for filters, kernel, stride in plan:
            conv = nn.Conv2d(channels, filters, kernel, stride, padding=0 if large else 1)
            orthogonal(conv, math.sqrt(2), generator)
            layers += [conv, nn.ReLU()]
            channels = filters
        self.convolutions = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, n_channels, height, width)).numel()
        self.size = 512 if large else 128
        self.project = nn.Linear(flat, self.size)
        orthogonal(self.project, math.sqrt(2), generator)

    def forward(self, observation: Tensor) -> Tensor:
        image = observation.permute(0, 3, 1, 2) if self.channels_last else observation
        maps = self.convolutions(image.to(torch.float32) * (1.0 / 255.0))
        return torch.relu(self.project(maps.flatten(1)))


class ObservationEncoder(nn.Module):
    """Features of all leaves side by side, float32 ``[N, size]``."""

    def __init__(self, leaves: tuple[ObservationLeaf, ...], normalize: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        encoders: list[BoxEncoder | NormalizedBoxEncoder | OneHotEncoder | ImageEncoder] = []
        for leaf in leaves:
            match leaf.kind:
                case "image":
                    encoders.append(ImageEncoder(leaf, generator))
                case "discrete" | "multi_discrete":
                    encoders.append(OneHotEncoder(leaf))
                case "box" if normalize:
                    encoders.append(NormalizedBoxEncoder(leaf))
                case "box" | "multi_binary":
                    encoders.append(BoxEncoder(leaf))
        self.size = sum(encoder.size for encoder in encoders)
        self.leaves = nn.ModuleList(encoders)

    def forward(self, observation: list[Tensor]) -> Tensor:
        features = [encoder(observation[i]) for i, encoder in enumerate(self.leaves)]
        return features[0] if len(features) == 1 else torch.cat(features, -1)

    def normalized(self) -> list[tuple[int, NormalizedBoxEncoder]]:
        """Return the encoders that need running moments, each with the position of its leaf."""
        return [(i, encoder) for i, encoder in enumerate(self.leaves) if isinstance(encoder, NormalizedBoxEncoder)]


class SharedCore(nn.Module):
    """One feed-forward network whose last layer gives the head, then the value."""

    def __init__(self, n_in: int, head_size: int, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.head_size = head_size
        self.network = mlp([n_in, *config.hidden_sizes, head_size + 1], config.activation, generator)
        _init_head(_last_linear(self.network), head_size, generator)

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        output = self.network(features)
        return output[:, : self.head_size], output[:, self.head_size], state

    def value_parameters(self) -> tuple[Tensor, Tensor]:
        """Return views of the value output's weights and bias."""
        last = _last_linear(self.network)
        return last.weight.data[self.head_size :], last.bias.data[self.head_size :]


class SeparateCore(nn.Module):
    """Two feed-forward networks: gradients of the value do not disturb the policy."""

    def __init__(self, n_in: int, head_size: int, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.policy = mlp([n_in, *config.hidden_sizes, head_size], config.activation, generator)
        self.value = mlp([n_in, *config.hidden_sizes, 1], config.activation, generator)
        _init_head(_last_linear(self.policy), head_size, generator)
        _init_head(_last_linear(self.value), 0, generator)

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        return self.policy(features), self.value(features).squeeze(-1), state

    def value_parameters(self) -> tuple[Tensor, Tensor]:
        last = _last_linear(self.value)
        return last.weight.data, last.bias.data


def _gate_layers(n_in: int, size: int, gates: int, generator: torch.Generator | None) -> tuple[nn.Linear, nn.Linear]:
    from_input, from_hidden = nn.Linear(n_in, gates * size), nn.Linear(size, gates * size, bias=False)
    orthogonal(from_input, 1.0, generator)
    orthogonal(from_hidden, 1.0, generator)
    return from_input, from_hidden


class LstmCell(nn.Module):
    """Equations of an LSTM with forget gates (Gers et al. 2000); ``nn.LSTM`` is slow for one step and exports badly."""

    def __init__(self, n_in: int, size: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.size = size
        self.from_input, self.from_hidden = _gate_layers(n_in, size, 4, generator)
        with torch.no_grad():  # the initial forget gate is nearly open (Jozefowicz et al. 2015)
            self.from_input.bias[size : 2 * size] = 1.0

    def step(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the next ``[h, c]``, each ``[N, size]``; ``projected`` is ``from_input(x)``, ``[N, 4 * size]``."""
        i, f, g, o = (projected + self.from_hidden(state[0])).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return [torch.sigmoid(o) * torch.tanh(c), c]

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        return self.step(self.from_input(x), state)


class GruCell(nn.Module):
    """Equations of a GRU (Cho et al. 2014), reset gate after the product as in cuDNN; ``from_hidden`` has no biases."""

    def __init__(self, n_in: int, size: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.size = size
        self.from_input, self.from_hidden = _gate_layers(n_in, size, 3, generator)

    def step(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the next ``[h]``, ``[N, size]``; ``projected`` is ``from_input(x)``, ``[N, 3 * size]``."""
        h = state[0]
        input_r, input_z, input_n = projected.chunk(3, -1)
        hidden_r, hidden_z, hidden_n = self.from_hidden(h).chunk(3, -1)
        n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
        return [n + torch.sigmoid(input_z + hidden_z) * (h - n)]

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        return self.step(self.from_input(x), state)


class RecurrentCore(nn.Module):
    """Hidden layers, an LSTM (state ``[h, c]``) or GRU (state ``[h]``), and a linear layer for head and value."""

    def __init__(self, n_in: int, head_size: int, config: NetworkConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.head_size = head_size
        sizes = [n_in, *config.hidden_sizes]
        hidden = [mlp(sizes, config.activation, generator), _activation(config.activation)]
        self.hidden = nn.Sequential(*(hidden if config.hidden_sizes else ()))
        make_cell = LstmCell if config.kind == "lstm" else GruCell
        self.cell: LstmCell | GruCell = make_cell(sizes[-1], config.recurrent_size, generator)
        self.heads = nn.Linear(config.recurrent_size, head_size + 1)
        _init_head(self.heads, head_size, generator)

    def forward(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        state = self.cell(self.hidden(features), state)
        output = self.heads(state[0])
        return output[:, : self.head_size], output[:, self.head_size], state

    def value_parameters(self) -> tuple[Tensor, Tensor]:
        return self.heads.weight.data[self.head_size :], self.heads.bias.data[self.head_size :]


Core = SharedCore | SeparateCore | RecurrentCore


def make_core(n_in: int, head_size: int, config: NetworkConfig, generator: torch.Generator | None) -> Core:
    """Return the core that ``config`` describes."""
    if config.kind != "mlp":
        return RecurrentCore(n_in, head_size, config, generator)
    core = SharedCore if config.shared_trunk else SeparateCore
    return core(n_in, head_size, config, generator)


def state_shapes(config: NetworkConfig) -> tuple[tuple[Path, tuple[int, ...]], ...]:
    """Return path and shape (without the batch dimension) of each float32 tensor of the recurrent state."""
    names = {"mlp": (), "lstm": ("h", "c"), "gru": ("h",)}[config.kind]
    return tuple(((config.kind, name), (config.recurrent_size,)) for name in names)


def _last_linear(network: nn.Sequential) -> nn.Linear:
    last = network[-1]
    assert isinstance(last, nn.Linear)
    return last
