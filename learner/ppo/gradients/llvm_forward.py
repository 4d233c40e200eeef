"""The forward pass of linear layers as one compiled function: a third of what the layers take one by one.

It is what actors run, and gives the very bits of theirs. Only gradients are left to torch.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.engines.row_compiler.llvm_program import Activation, RowCall, compile_layers
from shared.errors import ProgramUnsupported

_FIRST_ROOM = 1024  # rows: for most minibatches, and code for long calls


class LlvmForward:
    """Layers ``weights[i]`` [out, in] and ``biases[i]`` [out], float32 and never moved, with ``activation`` between."""

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation, *, keep: bool
    ) -> None:
        """``keep``: give what is between the layers, too. Raises ProgramUnsupported where a layer is too large."""
        self._weights = {f"{i}.weight": weight.numpy() for i, weight in enumerate(weights)}
        self._weights |= {f"{i}.bias": bias.numpy() for i, bias in enumerate(biases)}
        shapes = tuple((int(weight.shape[0]), int(weight.shape[1])) for weight in weights)
        self._compiled = _compile(shapes, activation, keep=keep)
        self._block = self._compiled.make_block()
        self._call = RowCall(self._compiled, self._block, _FIRST_ROOM)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """``[N, in]`` to what is kept of what is between the layers, one after the other, and the result ``[N, out]``.

        The next call writes over these tensors.
        """
        rows = len(x)
        if rows > self._call.room:
            self._call = RowCall(self._compiled, self._block, rows)
        call = self._call
        call.use(rows)
        call.inputs[0][...] = x.numpy()
        self._compiled.pack(self._weights, self._block)
        call.run(call.table)
        return [torch.from_numpy(output) for output in call.outputs]


def compile_forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation, *, keep: bool
) -> LlvmForward | None:
    """None where the layers are better run one by one."""
    try:
        return LlvmForward(weights, biases, activation, keep=keep)
    except ProgramUnsupported:
        return None


_compile = functools.lru_cache(maxsize=16)(compile_layers)
