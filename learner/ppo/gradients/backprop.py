"""Forward and backward passes of a policy's network: their interface, and autograd, the reference of faster passes."""

import itertools
import math
from collections.abc import Callable
from typing import Protocol, TypedDict

import torch
from torch import Tensor, nn

from learner.networks.acting_policy import ActingPolicy
from learner.networks.networks import RecurrentCore

_BETA_1 = 0.9
_BETA_2 = 0.999
_EPSILON = 1e-5  # as in PPO implementations (Huang et al. 2022, "The 37 implementation details of PPO", detail 3)


class FlatParameters:
    """Flat buffers ``values`` and ``gradient``, float32 ``[n]``; the module's parameters become views of them."""

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.values = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient = torch.zeros_like(self.values)
        offset = 0
        for parameter in parameters:
            end = offset + parameter.numel()
            parameter.data = self.values[offset:end].view_as(parameter)
            parameter.grad = self.gradient[offset:end].view_as(parameter)
            offset = end

    def clip_gradient(self, max_norm: float | None) -> float:
        """Scale the gradient down to the L2 norm ``max_norm`` if it is longer; return its norm before that."""
        norm = float(torch.linalg.vector_norm(self.gradient))
        if max_norm is not None and norm > max_norm:
            self.gradient.mul_(max_norm / norm)
        return norm


class AdamState(TypedDict):
    steps: int
    mean: torch.Tensor
    square: torch.Tensor


class FlatAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) over one flat buffer."""

    def __init__(self, parameters: FlatParameters) -> None:
        self._parameters = parameters
        self._steps = 0
        self._mean = torch.zeros_like(parameters.values)
        self._square = torch.zeros_like(parameters.values)

    def step(self, learning_rate: float) -> None:
        """Update the parameters in place, by one step against their gradient."""
        gradient = self._parameters.gradient
        self._steps += 1
        self._mean.lerp_(gradient, 1 - _BETA_1)
        self._square.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        denominator = self._square.sqrt().mul_(1 / math.sqrt(1 - _BETA_2**self._steps)).add_(_EPSILON)
        step_size = learning_rate / (1 - _BETA_1**self._steps)
        self._parameters.values.addcdiv_(self._mean, denominator, value=-step_size)

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Return the moments of the gradient by name."""
        return [("mean of the gradient", self._mean), ("mean square of the gradient", self._square)]

    def state_dict(self) -> AdamState:
        return {"steps": self._steps, "mean": self._mean.clone(), "square": self._square.clone()}

    def load_state_dict(self, state: AdamState) -> None:
        self._steps = state["steps"]
        self._mean.copy_(state["mean"])
        self._square.copy_(state["square"])


# Activations of layers of 64 units for this many rows fit the core's own cache: 17,408 rows take 23 and 32 ms (shared
# and separate networks) at once, 20 and 22 ms in parts. Also, not all activations of images are in memory at a time.
_CACHE_ROWS = 2048


def split_evenly(total: int, size: int) -> list[tuple[int, int]]:
    """Return the bounds of consecutive parts of nearly equal length, as close to ``size`` as possible."""
    parts = max(1, round(total / size))
    edges = [total * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges)) if total else []


def cache_sized_parts(rows: int) -> list[tuple[int, int]]:
    """Return the bounds of at least one part, each about as large as the cache allows."""
    return split_evenly(rows, _CACHE_ROWS) or [(0, 0)]


Function = Callable[[list[Tensor]], tuple[Tensor, Tensor]]


class Backprop(Protocol):
    """Passes of a network. They run under ``torch.no_grad``; ``forward`` comes before each ``backward``."""

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head ``[N, P]`` and value ``[N]``, float32."""

    def backward(self, head_gradient: Tensor, value_gradient: Tensor) -> None:
        """Overwrite every parameter's gradient, given those of the last ``forward``'s outputs."""


class RowBackprop(Backprop, Protocol):
    """Passes of a network that treats every row alike."""

    def evaluate(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` returns, for any number of rows; no ``backward`` may follow."""


class RowReference:
    """Differentiable function of a feed-forward policy's observations, row by row."""

    def __init__(self, policy: ActingPolicy) -> None:
        self.policy = policy
        self.encodes_once = _encodes_once(policy)

    def encode_once(self, observation: list[Tensor]) -> list[Tensor]:
        """Return the inputs of ``run``: features ``[N, n]`` if the encoder has no parameters, else the observation."""
        return [self.policy.encoder(observation)] if self.encodes_once else observation

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head ``[N, P]`` and value ``[N]``."""
        features = inputs[0] if self.encodes_once else self.policy.encoder(inputs)
        head, value, _ = self.policy.core(features, [])
        return head, value


class SequenceReference:
    """Differentiable function of sequences of a recurrent policy's observations: T steps of b environments.

    The inputs of ``run`` are the state's leaves ``[b, size]`` before the first step, ``keeps`` float32 ``[T, b, 1]``
    (0 where an episode begins and the state is cleared, else 1) and what ``encode_once`` returns.
    """

    def __init__(self, policy: ActingPolicy) -> None:
        if not isinstance(policy.core, RecurrentCore):
            raise TypeError(f"expected a recurrent policy, found one with a {type(policy.core).__name__}")
        self.policy = policy
        self.core = policy.core
        self.encodes_once = _encodes_once(policy)
        self._n_states = len(policy.signature.state)

    def encode_once(self, observation: list[Tensor]) -> list[Tensor]:
        """Return features ``[T, b, n]`` if the encoder has no parameters, else the observation ``[T, b, ...]``."""
        if not self.encodes_once:
            return observation
        length, width = observation[0].shape[:2]
        features: Tensor = self.policy.encoder([leaf.flatten(0, 1) for leaf in observation])
        return [features.reshape(length, width, -1)]

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head ``[T * b, P]`` and value ``[T * b]``."""
        state, (keeps, *observation) = inputs[: self._n_states], inputs[self._n_states :]
        head, value = self.heads(self.states(state, keeps, observation)[0])
        return head.flatten(0, 1), value.flatten()

    def states(self, state: list[Tensor], keeps: Tensor, observation: list[Tensor]) -> list[Tensor]:
        """Return the state after every step, each leaf ``[T, b, size]``."""
        states = []
        begins = (keeps == 0).flatten(1).any(1).tolist()
        for t, step in enumerate(self._cell_inputs(observation).unbind(0)):
            if begins[t]:
                state = [leaf * keeps[t] for leaf in state]
            state = self.core.cell.step(step, state)
            states.append(state)
        return [torch.stack(leaf) for leaf in zip(*states, strict=True)]

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head ``[..., P]`` and value ``[...]`` of the cell's output ``[..., size]``."""
        output = self.core.heads(hidden)
        return output[..., : self.core.head_size], output[..., self.core.head_size]

    def _cell_inputs(self, observation: list[Tensor]) -> Tensor:
        length, width = observation[0].shape[:2]
        rows = [leaf.flatten(0, 1) for leaf in observation]
        features = rows[0] if self.encodes_once else self.policy.encoder(rows)
        projected: Tensor = self.core.cell.from_input(self.core.hidden(features))
        return projected.reshape(length, width, -1)


class AutogradBackprop:
    """Passes of any differentiable ``function`` of ``inputs``, by autograd."""

    def __init__(self, function: Function, parameters: FlatParameters) -> None:
        self._function = function
        self._parameters = parameters
        self._outputs: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        self._parameters.gradient.zero_()
        with torch.enable_grad():
            self._outputs = self._function(inputs)
        head, value = self._outputs
        return head.detach(), value.detach()

    def evaluate(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            parts = cache_sized_parts(len(inputs[0]))
            outputs = [self._function([tensor[begin:end] for tensor in inputs]) for begin, end in parts]
        heads, values = zip(*outputs, strict=True)
        return torch.cat(heads), torch.cat(values)

    def backward(self, head_gradient: Tensor, value_gradient: Tensor) -> None:
        assert self._outputs is not None, "forward comes first"
        torch.autograd.backward(self._outputs, (head_gradient, value_gradient))
        self._outputs = None


def _encodes_once(policy: ActingPolicy) -> bool:
    return next(policy.encoder.parameters(), None) is None
