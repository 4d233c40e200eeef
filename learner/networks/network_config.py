"""Description of a policy's network. The module does not import torch, so that ``--help`` is fast."""

from typing import Literal

import msgspec

NetworkKind = Literal["mlp", "lstm", "gru"]
Activation = Literal["tanh", "relu"]


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Architecture of a policy network. With the spaces, it is enough to build the network again.

    Attributes:
        kind: feed-forward network, or an LSTM or GRU behind the hidden layers.
        hidden_sizes: units of each hidden layer.
        recurrent_size: units of the LSTM or GRU; unused by ``"mlp"``.
        activation: activation between the layers.
        shared_trunk: one network with two heads instead of one network each for policy and value (``"mlp"`` only).
        normalize_observations: shift and scale vector observations by running moments, inside the policy.
        initial_log_std: logarithm of the initial standard deviation of actions in a Box space.
    """

    kind: NetworkKind = "mlp"
    hidden_sizes: tuple[int, ...] = (64, 64)
    recurrent_size: int = 64
    activation: Activation = "tanh"
    shared_trunk: bool = False
    normalize_observations: bool = False
    initial_log_std: float = 0.0
