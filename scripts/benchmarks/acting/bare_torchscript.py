"""Baselines without a library: hand-written loops around a scripted network, and around the agent's own program.

The first kind does only what acting needs: no value, no log-probability, no reproducible noise, no checks. The second
separates the cost of the agent's program from that of the agent.
"""

import io
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks.acting.acting_loops import HIDDEN_SIZES, PIECE_STEPS, make_environment
from scripts.benchmarks.common.rounds import Piece
from shared.policy.noise import NoiseStream
from shared.store.policy_store import LocalPolicyStore

Variant = Literal["layers", "multinomial", "by hand"]
DESCRIPTION = (
    "the loop: a scripted and frozen module of linear layers that samples its action inside by the Gumbel-max trick, "
    "in inference_mode; no value, no log-probability, no reproducible noise, no checks"
)
SAME_PROGRAM_DESCRIPTION = (
    "the loop: the version's own policy.ts by torch.jit.load, in inference_mode, with from_numpy; action, "
    "log-probability and value from the observation and noise, drawn in blocks as the agent does; no checks"
)


class _Layers(nn.Module):
    """Maps an observation [4] to an action (int), without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(4, 2, last_gain=0.01)

    def forward(self, observation: Tensor) -> int:
        # The Gumbel-max trick samples the softmax without computing it, in half the time of multinomial.
        logits = self.network(observation)
        return int((logits - torch.empty_like(logits).exponential_().log_()).argmax())


class _Multinomial(_Layers):
    def forward(self, observation: Tensor) -> int:
        return int(torch.multinomial(torch.softmax(self.network(observation), -1), 1))


class _ByHand(_Layers):
    """Replaces ``nn.Linear`` by matrix-vector products and tanh in place; for one environment only."""

    def __init__(self) -> None:
        super().__init__()
        first, second, last = (layer for layer in self.network if isinstance(layer, nn.Linear))
        self.weight_1, self.bias_1 = first.weight, first.bias
        self.weight_2, self.bias_2 = second.weight, second.bias
        self.weight_3, self.bias_3 = last.weight, last.bias
        self.register_buffer("noise", torch.empty(2))

    noise: Tensor

    def forward(self, observation: Tensor) -> int:
        hidden = torch.addmv(self.bias_1, self.weight_1, observation).tanh_()
        hidden = torch.addmv(self.bias_2, self.weight_2, hidden).tanh_()
        logits = torch.addmv(self.bias_3, self.weight_3, hidden)
        return int((logits - self.noise.exponential_().log_()).argmax())


_VARIANTS: dict[Variant, type[nn.Module]] = {"layers": _Layers, "multinomial": _Multinomial, "by hand": _ByHand}


def small_network(inputs: int, outputs: int, *, last_gain: float) -> nn.Sequential:
    """Make the network of all baselines: ``HIDDEN_SIZES`` with tanh and orthogonal weights, as usual for PPO."""
    layers: list[nn.Module] = []
    for size in HIDDEN_SIZES:
        layers += [_linear(inputs, size, 2**0.5), nn.Tanh()]
        inputs = size
    return nn.Sequential(*layers, _linear(inputs, outputs, last_gain))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def bare_torchscript(variant: Variant = "layers") -> Piece:
    """Act in one environment with a warm, frozen program, called without ``nn.Module.__call__``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        act = torch.jit.freeze(torch.jit.script(_VARIANTS[variant]().eval())).forward
    environment = make_environment()
    observation, _ = environment.reset(seed=0)
    from_numpy = torch.from_numpy

    def piece() -> int:
        nonlocal observation
        with torch.inference_mode():
            for _ in range(PIECE_STEPS):
                observation, _, terminated, truncated, _ = environment.step(act(from_numpy(observation)))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return PIECE_STEPS

    piece()
    return piece


def bare_same_program(store: LocalPolicyStore) -> Piece:
    """Act in one environment with the TorchScript program of the newest version in ``store``."""
    newest = store.newest()
    assert newest is not None
    files = store.open(newest)
    (program,) = (program for program in files.manifest.programs if program.kind == "torchscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        act = torch.jit.load(io.BytesIO(files.read(program.file)))  # type: ignore[no-untyped-call]
    noise = NoiseStream(files.manifest.signature.action, 1, seed=0)
    environment = make_environment()
    observation, _ = environment.reset(seed=0)
    from_numpy, offset = torch.from_numpy, 0

    def piece() -> int:
        nonlocal observation, offset
        with torch.inference_mode():
            for _ in range(PIECE_STEPS):
                outputs = act([from_numpy(observation[np.newaxis]), from_numpy(noise.at(offset))])
                offset += 1
                observation, _, terminated, truncated, _ = environment.step(int(outputs[0]))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return PIECE_STEPS

    piece()
    return piece
