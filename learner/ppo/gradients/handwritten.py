"""Hand-written gradients of linear layers and LSTMs.

They overwrite the gradient buffer of ``FlatParameters``. For two layers of 64 units they take less than half the time
of autograd: nothing is recorded or accumulated, and the forward pass is one compiled function. Where LLVM does not
compile it, tanh is computed by the vectorised sigmoid, three times as fast as ``torch.tanh``.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from learner.networks.networks import LstmCell, RecurrentCore, SeparateCore, SharedCore
from learner.ppo.gradients.backprop import cache_sized_parts
from shared.engines.row_compiler.llvm_program import Activation, RowCall, compile_layers
from shared.errors import ProgramUnsupported

_MINUS_ONE = torch.tensor(-1.0)


class MlpBackprop:
    """Passes of linear layers with an activation between them, as ``networks.mlp`` makes them."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        layers = list(layers)
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self._weights = [linear.weight.data for linear in linears]
        self._biases = [linear.bias.data for linear in linears]
        self._weight_gradients = [gradient_of(linear.weight) for linear in linears]
        self._bias_gradients = [gradient_of(linear.bias) for linear in linears]
        tanh = any(isinstance(layer, nn.Tanh) for layer in layers)
        activation: Activation = "tanh" if tanh else "relu"
        self._compiled = llvm_forward(self._weights, self._biases, activation, keep_hidden=True)
        self._evaluating = llvm_forward(self._weights, self._biases, activation, keep_hidden=False)
        self._activate: Callable[[Tensor], Tensor] = _tanh_ if tanh else torch.relu_
        self._derive: Callable[[Tensor, Tensor], Tensor] = (
            torch.ops.aten.tanh_backward
            if tanh
            else lambda gradient, y: torch.ops.aten.threshold_backward(gradient, y, 0)
        )
        self._inputs: list[Tensor] = []  # of each layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the output ``[N, out]`` of ``x`` ``[N, in]``."""
        if self._compiled is not None:
            *hidden, output = self._compiled(x)
            self._inputs = [x, *hidden]
            return output.clone()
        self._inputs = [x]
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            x = self._activate(torch.addmm(bias, x, weight.t()))
            self._inputs.append(x)
        return torch.addmm(self._biases[-1], x, self._weights[-1].t())

    def evaluate(self, x: Tensor) -> Tensor:
        """Return what ``forward`` returns; no ``backward`` may follow."""
        if self._evaluating is not None:
            return self._evaluating(x)[0].clone()
        return torch.cat([self.forward(x[begin:end]) for begin, end in cache_sized_parts(len(x))])

    def backward(self, gradient: Tensor) -> None:
        """Overwrite the layers' gradients, given that of the output, ``[N, out]``."""
        for i in range(len(self._weights) - 1, -1, -1):
            _outer_sum(gradient, self._inputs[i], self._weight_gradients[i])
            torch.sum(gradient, 0, out=self._bias_gradients[i])
            if i:
                gradient = self._derive(torch.mm(gradient, self._weights[i]), self._inputs[i])


class SharedCoreBackprop:
    """Passes of a ``SharedCore``; ``inputs`` are ``[features]``."""

    def __init__(self, core: SharedCore) -> None:
        self._network = MlpBackprop(core.network)
        self._head_size = core.head_size

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._split(self._network.forward(inputs[0]))

    def evaluate(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._split(self._network.evaluate(inputs[0]))

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        return output[:, : self._head_size], output[:, self._head_size]

    def backward(self, head_gradient: Tensor, value_gradient: Tensor) -> None:
        self._network.backward(torch.cat([head_gradient, value_gradient.unsqueeze(-1)], -1))


class SeparateCoreBackprop:
    """Passes of a ``SeparateCore``; ``inputs`` are ``[features]``."""

    def __init__(self, core: SeparateCore) -> None:
        self._policy = MlpBackprop(core.policy)
        self._value = MlpBackprop(core.value)

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._policy.forward(inputs[0]), self._value.forward(inputs[0]).squeeze(-1)

    def evaluate(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._policy.evaluate(inputs[0]), self._value.evaluate(inputs[0]).squeeze(-1)

    def backward(self, head_gradient: Tensor, value_gradient: Tensor) -> None:
        self._policy.backward(head_gradient)
        self._value.backward(value_gradient.unsqueeze(-1))


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the buffer of the parameter's gradient."""
    assert parameter.grad is not None, "FlatParameters gives every parameter its gradient"
    return parameter.grad


def _outer_sum(gradient: Tensor, inputs: Tensor, out: Tensor) -> None:
    """``out = gradient^T inputs``. The product is several times as fast if its first matrix has fewer rows."""
    if inputs.shape[1] < gradient.shape[1]:
        out.copy_(torch.mm(inputs.t(), gradient).t())
    else:
        torch.mm(gradient.t(), inputs, out=out)


def _tanh_(x: Tensor) -> Tensor:
    return torch.add(_MINUS_ONE, x.mul_(2).sigmoid_(), alpha=2, out=x)


_compile = functools.lru_cache(maxsize=16)(compile_layers)
_FIRST_ROOM = 1024  # rows: enough for most minibatches, and enough to get the code for long calls


class LlvmForward:
    """Layers ``weights[i]`` [out, in] and ``biases[i]`` [out], float32 tensors that never move in memory."""

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation, *, keep_hidden: bool
    ) -> None:
        """``keep_hidden`` returns the hidden activations, too. Raises ProgramUnsupported if a layer is too large."""
        self._weights = {f"{i}.weight": weight.numpy() for i, weight in enumerate(weights)}
        self._weights |= {f"{i}.bias": bias.numpy() for i, bias in enumerate(biases)}
        shapes = tuple((int(weight.shape[0]), int(weight.shape[1])) for weight in weights)
        self._compiled = _compile(shapes, activation, keep=keep_hidden)
        self._block = self._compiled.make_block()
        self._call = RowCall(self._compiled, self._block, _FIRST_ROOM)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the hidden activations, if kept, then the output ``[N, out]``. The next call overwrites them."""
        rows = len(x)
        if rows > self._call.room:
            self._call = RowCall(self._compiled, self._block, rows)
        call = self._call
        call.use(rows)
        call.inputs[0][...] = x.numpy()
        self._compiled.pack(self._weights, self._block)
        call.run(call.table)
        return [torch.from_numpy(output) for output in call.outputs]


def llvm_forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation, *, keep_hidden: bool
) -> LlvmForward | None:
    """Return an ``LlvmForward``, or None if LLVM does not compile layers of these sizes."""
    try:
        return LlvmForward(weights, biases, activation, keep_hidden=keep_hidden)
    except ProgramUnsupported:
        return None


class LstmBackprop:
    """Passes of the core over whole sequences; ``inputs`` as in ``SequenceReference``, ending in the features."""

    def __init__(self, core: RecurrentCore, cell: LstmCell) -> None:
        """``cell`` is the core's cell."""
        hidden = [layer for layer in core.hidden.modules() if isinstance(layer, nn.Linear | nn.Tanh | nn.ReLU)]
        self._into_gates = MlpBackprop([*hidden, cell.from_input])
        self._heads = MlpBackprop([core.heads])
        self._head_size = core.head_size
        self._size = cell.size
        self._weight = cell.from_hidden.weight.data
        self._weight_gradient = gradient_of(cell.from_hidden.weight)
        self._heads_weight = core.heads.weight.data
        self._kept: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[bool]] | None = None

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        h, c, keeps, features = inputs
        length, width = features.shape[:2]
        gates = self._into_gates.forward(features.flatten(0, 1)).view(length, width, 4 * self._size)
        shape = (length, width, self._size)
        before_h, before_c, tanh_c, hidden = (torch.empty(shape) for _ in range(4))
        begins: list[bool] = (keeps == 0).flatten(1).any(1).tolist()
        weight = self._weight.t()
        for t in range(length):
            if begins[t]:
                h, c = h * keeps[t], c * keeps[t]
            before_h[t], before_c[t] = h, c
            i, f, g, o = _activate(gates[t].addmm_(h, weight), self._size)
            c = torch.mul(f, c).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=tanh_c[t]), out=hidden[t])
        self._kept = (gates, before_h, before_c, tanh_c, keeps, begins)
        output = self._heads.forward(hidden.flatten(0, 1))
        return output[:, : self._head_size], output[:, self._head_size]

    def backward(self, head_gradient: Tensor, value_gradient: Tensor) -> None:
        assert self._kept is not None, "forward comes first"
        gates, before_h, before_c, tanh_c, keeps, begins = self._kept
        output_gradient = torch.cat([head_gradient, value_gradient.unsqueeze(-1)], -1)
        self._heads.backward(output_gradient)
        d_hidden = (output_gradient @ self._heads_weight).view_as(before_h)
        d_gates = torch.empty_like(gates)
        d_h, d_c = torch.zeros_like(before_h[0]), torch.zeros_like(before_h[0])
        for t in range(len(gates) - 1, -1, -1):
            i, f, g, o = gates[t].chunk(4, -1)
            d_i, d_f, d_g, d_o = d_gates[t].chunk(4, -1)
            d_h += d_hidden[t]
            d_c += torch.ops.aten.tanh_backward(d_h * o, tanh_c[t])
            torch.mul(d_c, g, out=d_i)
            torch.mul(d_c, before_c[t], out=d_f)
            torch.mul(d_c, i, out=d_g)
            torch.mul(d_h, tanh_c[t], out=d_o)
            d_c = d_c.mul_(f)
            _derive(d_gates[t], gates[t], d_g, g)
            d_h = torch.mm(d_gates[t], self._weight)
            if begins[t]:
                d_h, d_c = d_h.mul_(keeps[t]), d_c.mul_(keeps[t])
        flat = d_gates.flatten(0, 1)
        torch.mm(flat.t(), before_h.flatten(0, 1), out=self._weight_gradient)
        self._into_gates.backward(flat)


def _activate(gates: Tensor, size: int) -> tuple[Tensor, ...]:
    """Apply sigmoid to i, f and o, and tanh to g, as ``2 sigmoid(2 x) - 1``, in place; return the four gates."""
    g = gates[:, 2 * size : 3 * size]
    g.mul_(2)
    gates.sigmoid_()
    g.mul_(2).sub_(1)
    return gates.chunk(4, -1)


def _derive(d_gates: Tensor, gates: Tensor, d_g: Tensor, g: Tensor) -> None:
    """Turn gradients of activated gates y into those of their inputs, in place: times y (1 - y), for g 1 - y^2."""
    d_tanh = torch.ops.aten.tanh_backward(d_g, g)
    d_gates.copy_(torch.ops.aten.sigmoid_backward(d_gates, gates))
    d_g.copy_(d_tanh)
