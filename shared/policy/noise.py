"""Counter-based noise: a seed and an offset, recorded with a rollout, stand for all that a policy was given."""

import numpy as np
import numpy.typing as npt

from shared.policy.spaces import ActionSpec

_BLOCK_STEPS = 64
_SMALLEST = np.float32(1e-12)


class NoiseStream:
    """The noise of one batch of environments, step by step.

    Step ``offset`` always gets the same rows for the same ``seed`` and ``batch_size``, in whichever order steps are
    asked for. Steps are drawn in blocks, because one call for 64 steps costs little more than a call for one.
    Source: Philox as a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """

    def __init__(self, action: ActionSpec, batch_size: int, seed: int) -> None:
        self.seed = seed
        self._kind = action.kind
        self._shape = (_BLOCK_STEPS, batch_size, *action.noise_shape)
        self._block_index = -1
        self._philox = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._block: list[npt.NDArray[np.float32]] = []  # views, each made once: one step after the other is asked for

    def at(self, offset: int) -> npt.NDArray[np.float32]:
        """Noise ``[B, *noise_shape]`` of step ``offset``; a view that stays valid."""
        block_index, row = divmod(offset, _BLOCK_STEPS)
        if block_index != self._block_index:
            self._block = list(self._draw(block_index))
            self._block_index = block_index
        return self._block[row]

    def _draw(self, block_index: int) -> npt.NDArray[np.float32]:
        # The counter's high word selects the block; no block draws 2**128 numbers from the low words.
        # Its state is set, since to make a generator takes as long as to draw with it.
        self._state["state"]["counter"][:] = (0, 0, block_index, 0)
        self._philox.state = self._state
        generator = self._generator
        if self._kind == "box":
            return generator.standard_normal(self._shape, np.float32)
        uniform = generator.random(self._shape, np.float32)
        return logistic(uniform) if self._kind == "multi_binary" else gumbel(uniform)


def gumbel(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Standard Gumbel noise of numbers in [0, 1): finite at both ends. Takes no more memory than it returns."""
    noise = np.maximum(uniform, _SMALLEST)
    for _ in range(2):
        np.log(noise, noise)
        np.negative(noise, noise)
    return noise


def logistic(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Standard logistic noise of numbers in [0, 1): finite at both ends."""
    uniform = np.maximum(uniform, _SMALLEST)
    return np.log(uniform) - np.log1p(-uniform)
