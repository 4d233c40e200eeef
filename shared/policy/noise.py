"""Counter-based noise: the seed and the offset recorded with a rollout determine a policy's noise."""

import numpy as np
import numpy.typing as npt

from shared.policy.spaces import ActionSpec

_BLOCK_STEPS = 64
_SMALLEST = np.float32(1e-12)


class NoiseStream:
    """Noise of one batch of environments: a function of ``seed``, ``batch_size`` and a step's offset, in any order.

    Steps are drawn in blocks of 64, which cost little more than one. Source: Philox as a counter-based generator
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """

    def __init__(self, action: ActionSpec, batch_size: int, seed: int) -> None:
        self.seed = seed
        self._kind = action.kind
        self._shape = (_BLOCK_STEPS, batch_size, *action.noise_shape)
        self._block_index = -1
        self._philox = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._block: list[npt.NDArray[np.float32]] = []  # views, made once per block

    def at(self, offset: int) -> npt.NDArray[np.float32]:
        """Return the noise of step ``offset``, float32 ``[B, *noise_shape]``; a view that stays valid."""
        block_index, row = divmod(offset, _BLOCK_STEPS)
        if block_index != self._block_index:
            self._block = list(self._draw(block_index))
            self._block_index = block_index
        return self._block[row]

    def _draw(self, block_index: int) -> npt.NDArray[np.float32]:
        # The counter's high word selects the block; no block draws 2**128 numbers from the low words. The state is set
        # because creating a generator takes as long as drawing with it.
        self._state["state"]["counter"][:] = (0, 0, block_index, 0)
        self._philox.state = self._state
        generator = self._generator
        if self._kind == "box":
            return generator.standard_normal(self._shape, np.float32)
        uniform = generator.random(self._shape, np.float32)
        return logistic(uniform) if self._kind == "multi_binary" else gumbel(uniform)


def gumbel(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return -ln(-ln u) of ``uniform`` u in [0, 1): standard Gumbel noise, finite at both ends."""
    noise = np.maximum(uniform, _SMALLEST)
    for _ in range(2):
        np.log(noise, noise)
        np.negative(noise, noise)
    return noise


def logistic(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return ln(u / (1 - u)) of ``uniform`` u in [0, 1): standard logistic noise, finite at both ends."""
    uniform = np.maximum(uniform, _SMALLEST)
    return np.log(uniform) - np.log1p(-uniform)
