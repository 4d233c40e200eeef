"""Description of a policy's network. The module does not import torch, so that ``--help`` is fast."""

from typing import Literal

import msgspec

NetworkKind = Literal["mlp", "lstm", "gru"]
Activation = Literal["tanh", "relu"]


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Architecture of a policy network; with the spaces, enough to build it. ``LearnerConfig`` explains the fields."""

    kind: NetworkKind = "mlp"
    hidden_sizes: tuple[int, ...] = (64, 64)
    recurrent_size: int = 64
    activation: Activation = "tanh"
    shared_trunk: bool = False
    normalize_observations: bool = False
    initial_log_std: float = 0.0
