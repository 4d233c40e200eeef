"""The rival that needs no library: a scripted network and a loop, written by hand, with nothing around it.

It does what acting needs and no more: no value, no log-probability, no noise that could be drawn again, no check.
Another such loop runs the agent's own program, for what the agent's program costs and what the agent.
"""

import io
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks.acting_loops import HIDDEN_SIZES, make_environment
from scripts.benchmarks.speed import Piece
from shared.policy.noise import NoiseStream
from shared.store.policy_store import LocalPolicyStore

_PIECE_STEPS = 500


Variant = Literal["layers", "multinomial", "by hand"]
DOES = (
    "the loop: a scripted and frozen module of linear layers that draws its action inside, by Gumbel's trick, in "
    "inference_mode; no value, no log-probability, no noise that could be drawn again, no check"
)
SAME_PROGRAM_DOES = (
    "the loop: the version's own policy.ts by torch.jit.load, in inference_mode, with from_numpy; action, "
    "log-probability and value out of the observation and of noise, drawn in blocks as the agent draws it; no check"
)


class _Layers(nn.Module):
    """An observation [4] in, an action out as an int: no batch dimension to add and none to take away."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(4, 2, last_gain=0.01)

    def forward(self, observation: Tensor) -> int:
        # Gumbel's trick: a sample of the softmax without computing it, at half the price of multinomial.
        logits = self.network(observation)
        return int((logits - torch.empty_like(logits).exponential_().log_()).argmax())


class _Multinomial(_Layers):
    """The same, with the sampling that tutorials have."""

    def forward(self, observation: Tensor) -> int:
        return int(torch.multinomial(torch.softmax(self.network(observation), -1), 1))


class _ByHand(_Layers):
    """The same, without ``nn.Linear``: matrix times vector, and tanh in place. Good for one environment only."""

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
    """The network that everybody here has: ``HIDDEN_SIZES`` with tanh, orthogonal weights, as PPO is written."""
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
    """One environment and a warm, frozen program, called without ``nn.Module.__call__``."""
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
            for _ in range(_PIECE_STEPS):
                observation, _, terminated, truncated, _ = environment.step(act(from_numpy(observation)))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return _PIECE_STEPS

    piece()
    return piece


def bare_same_program(store: LocalPolicyStore) -> Piece:
    """One environment and the TorchScript program of the newest version in ``store``, called with nothing around it."""
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
            for _ in range(_PIECE_STEPS):
                outputs = act([from_numpy(observation[np.newaxis]), from_numpy(noise.at(offset))])
                offset += 1
                observation, _, terminated, truncated, _ = environment.step(int(outputs[0]))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return _PIECE_STEPS

    piece()
    return piece
