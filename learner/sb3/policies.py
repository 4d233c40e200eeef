"""Stable-Baselines3's networks under the policy contract. The layers are shared with the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.sb3.action_heads import GreedyHead
from learner.sb3.observation_input import ObservationInput
from shared.policy.signature import PolicySignature


class ArrayFeatures(nn.Module):
    """A features extractor of an observation that is one array."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, observation: list[Tensor]) -> Tensor:
        features: Tensor = self.extractor(observation[0])
        return features


class DictFeatures(nn.Module):
    """A features extractor of a Dict observation, whose leaves come in the order of ``keys``."""

    def __init__(self, extractor: nn.Module, keys: Sequence[str]) -> None:
        super().__init__()
        self.extractor = extractor
        self._keys = list(keys)

    def forward(self, observation: list[Tensor]) -> Tensor:
        named: dict[str, Tensor] = {}
        for i, key in enumerate(self._keys):
            named[key] = observation[i]
        features: Tensor = self.extractor(named)
        return features


class FeedForwardPolicy(nn.Module):
    """Observation, features, layers, head, and for some algorithms a value, of the same features or its own."""

    def __init__(
        self,
        signature: PolicySignature,
        observation: ObservationInput,
        *,
        features: nn.Module,
        layers: nn.Module,
        head: nn.Module,
        value_features: nn.Module | None = None,
        value: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.signature = signature
        self.observation = observation
        self.features = features
        self.layers = layers
        self.head = head
        self.value_features = value_features
        self.value = value
        self._n_observations = len(signature.observation)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        n = self._n_observations
        observation = self.observation(inputs[:n])
        features = self.features(observation)
        outputs: list[Tensor] = self.head(self.layers(features), inputs[n:])
        if self.value is not None:
            if self.value_features is not None:
                features = self.value_features(observation)
            outputs.append(self.value(features).flatten())
        return outputs

    def choice_lead(self, inputs: list[Tensor]) -> Tensor:
        """Return the lead of the best Q-value [B], or infinity without Q-values; see ``shared.policy.probe``."""
        if not isinstance(self.head, GreedyHead):
            return torch.full((inputs[0].shape[0],), torch.inf)
        observation = self.observation(inputs[: self._n_observations])
        return self.head.lead(self.layers(self.features(observation)))


class LstmLayer(nn.Module):
    """One layer of an ``nn.LSTM`` for one step, written out: a trace of ``nn.LSTM`` does not check its state."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(self, lstm: nn.LSTM, layer: int) -> None:
        super().__init__()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            self.register_parameter(name, getattr(lstm, f"{name}_l{layer}", None))

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = functional.linear(features, self.weight_ih, self.bias_ih)
        gates = gates + functional.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class LstmStep(nn.Module):
    """All layers of an ``nn.LSTM`` for one step: ``[B, features]`` with state ``[B, layers, hidden]``."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LstmLayer(lstm, layer) for layer in range(lstm.num_layers))

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
        """Return the next ``h`` and ``c``. The ``h`` of the last layer is the output of the LSTM."""
        next_h: list[Tensor] = []
        next_c: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            features, cell = layer(features, h[:, i], c[:, i])
            next_h.append(features)
            next_c.append(cell)
        return [torch.stack(next_h, 1), torch.stack(next_c, 1)]


@dataclass(frozen=True)
class CriticModules:
    """The modules from observation to value; ``features`` and ``memory`` are None if the policy's are shared."""

    features: nn.Module | None
    memory: nn.Module | None
    value: nn.Module


class RecurrentPolicy(nn.Module):
    """Observation, features, LSTM, layers, head and value. State ``[B, layers, hidden]``: h, c, then the critic's."""

    def __init__(
        self,
        signature: PolicySignature,
        observation: ObservationInput,
        *,
        features: nn.Module,
        lstm: LstmStep,
        layers: nn.Module,
        head: nn.Module,
        critic: CriticModules,
    ) -> None:
        super().__init__()
        self.signature = signature
        self.observation = observation
        self.features = features
        self.lstm = lstm
        self.layers = layers
        self.head = head
        self.value_features = critic.features
        self.critic = critic.memory
        self.value = critic.value
        self._n_observations = len(signature.observation)
        self._n_states = len(signature.state)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        n, n_states = self._n_observations, self._n_states
        observation = self.observation(inputs[:n])
        state = inputs[n : n + n_states]
        features = self.features(observation)
        next_state: list[Tensor] = self.lstm(features, state[0], state[1])
        hidden = next_state[0][:, -1]
        outputs: list[Tensor] = self.head(self.layers(hidden), inputs[n + n_states :])
        if self.critic is not None:
            if self.value_features is not None:
                features = self.value_features(observation)
            if n_states > 2:
                critic_state: list[Tensor] = self.critic(features, state[2], state[3])
                next_state += critic_state
                hidden = critic_state[0][:, -1]
            else:
                hidden = self.critic(features)
        outputs.append(self.value(hidden).flatten())
        return outputs + next_state
