"""Hand-written backpropagation through time for a ``RecurrentCore`` with an LSTM.

Work that does not depend on the state is done for all steps at once. The loop is left with a dozen operations a step in
each direction; autograd records and replays three times as many.

Equations of the cell, with gates i, f, g, o (Hochreiter & Schmidhuber 1997, with forget gates): ``c = f c + i g`` and
``h = o tanh(c)``, where i, f and o are sigmoids and g is a tanh.
"""

import torch
from torch import Tensor, nn

from learner.networks.networks import LstmCell, RecurrentCore
from learner.ppo.gradients.mlp_backprop import MlpBackprop, gradient_of


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
