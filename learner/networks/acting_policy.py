"""The policy as a module: encoder, core and distribution, in the form that is exported."""

from collections.abc import Iterable, Mapping

import msgspec
import torch
from torch import Tensor, nn

from learner.networks.distributions import make_distribution, mask_logits
from learner.networks.network_config import NetworkConfig
from learner.networks.networks import ObservationEncoder, make_core, state_shapes
from shared.policy.signature import PolicySignature, acting_signature
from shared.policy.spaces import ActionSpec, ObservationLeaf

CLASS_PATH = "learner.networks.acting_policy:ActingPolicy"


class ActingPolicy(nn.Module):
    """Pure function of flat tensors, batch first, in the order of ``signature`` (see ``shared.policy.signature``).

    Inputs are observation, recurrent state, action mask and noise; outputs are action, environment action,
    log-probability, value and next state. ``arguments`` are the constructor's arguments as JSON-compatible data: with
    ``CLASS_PATH`` and a state dict they build the policy wherever this package is installed. A ``masked`` policy takes
    a mask of allowed actions. Initial weights come from ``generator``, by default torch's global one.
    """

    value_scale: Tensor

    def __init__(
        self,
        observation: Iterable[ObservationLeaf | Mapping[str, object]],
        action: ActionSpec | Mapping[str, object],
        network: NetworkConfig | Mapping[str, object],
        masked: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        leaves = msgspec.convert(tuple(observation), tuple[ObservationLeaf, ...])
        action = msgspec.convert(action, ActionSpec)
        network = msgspec.convert(network, NetworkConfig)
        self.signature: PolicySignature = acting_signature(leaves, action, state=state_shapes(network), masked=masked)
        self.arguments: dict[str, object] = msgspec.to_builtins(
            {"observation": leaves, "action": action, "network": network, "masked": masked}
        )
        self.encoder = ObservationEncoder(leaves, network.normalize_observations, generator)
        self.distribution = make_distribution(action, network.initial_log_std)
        self.core = make_core(self.encoder.size, self.distribution.head_size, network, generator)
        self.register_buffer("value_scale", torch.ones(()))  # unit that values are learned in
        self._n_observations = len(leaves)
        self._n_states = len(self.signature.state)
        self._masked = self.signature.input_position("action_mask") is not None
        self._has_env_action = action.has_env_action

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        n = self._n_observations
        state = inputs[n : n + self._n_states]
        head, value, state = self.core(self.encoder(inputs[:n]), state)
        if self._masked:
            head = mask_logits(head, inputs[-2])
        terms = self.distribution.terms(head)
        action = self.distribution.sample(terms, inputs[-1])
        outputs = [action]
        if self._has_env_action:
            outputs.append(self.distribution.env_action(action))
        outputs += [self.distribution.log_prob(terms, action), value * self.value_scale]
        outputs += state
        return outputs
