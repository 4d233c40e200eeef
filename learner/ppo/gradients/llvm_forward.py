"""Forward pass of linear layers as one function, compiled by LLVM: a third of the time of one call for each layer.

It is the code that actors run, so outputs are equal to theirs, bit for bit. Gradients are left to torch.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.engines.row_compiler.llvm_program import Activation, RowCall, compile_layers
from shared.errors import ProgramUnsupported

_compile = functools.lru_cache(maxsize=16)(compile_layers)
_FIRST_ROOM = 1024  # rows: enough for most minibatches, and enough to get the code for long calls


class LlvmForward:
    """Layers ``weights[i]`` [out, in] and ``biases[i]`` [out] with ``activation`` between them.

    The tensors are float32, on the CPU, and never move in memory; their values may change between calls.
    """

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
        """Return the hidden activations, if kept, then the output ``[N, out]`` of ``x`` ``[N, in]``.

        The next call overwrites these tensors.
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


def llvm_forward(
    weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation, *, keep_hidden: bool
) -> LlvmForward | None:
    """Return an ``LlvmForward``, or None if LLVM does not compile layers of these sizes."""
    try:
        return LlvmForward(weights, biases, activation, keep_hidden=keep_hidden)
    except ProgramUnsupported:
        return None
