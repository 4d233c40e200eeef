"""When a program counts as the policy: it equals eager at several batch sizes, and once more with other weights."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from shared.engines.eager import module_tensors
from shared.policy_signature import PolicySignature
from shared.probe import compare, compute_probe

BATCH_SIZES = (1, 3, 64)
ATOL = RTOL = 1e-5

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
LoadWeights = Callable[[Mapping[str, np.ndarray]], None]


class ExportChecks:
    """What the eager policy computes with its weights as they are, and with every float among them changed.

    A loop or a branch that was baked in shows at another batch size, a folded weight once the weights have changed.
    """

    def __init__(self, module: nn.Module, signature: PolicySignature) -> None:
        """Raises ExportError where the policy does not return what its signature says. ``module`` ends as it was."""
        self._signature = signature
        self.weights = {name: tensor.numpy().copy() for name, tensor in module_tensors(module).items()}
        generator = np.random.default_rng(0)
        self._cases = []
        for weights in (perturbed(self.weights, generator), self.weights):
            write_weights(module, weights)
            probes = [compute_probe(module, signature, batch_size=size, seed=size) for size in BATCH_SIZES]
            self._cases.append((weights, probes))

    def largest_difference(self, run: Run, load_weights: LoadWeights) -> float:
        """Of any float output. Raises ProbeMismatch where one is too large; the weights end as they were."""
        largest = 0.0
        try:
            for weights, probes in self._cases:
                load_weights(weights)
                for probe in probes:
                    difference = compare(probe.outputs, run(probe.inputs), self._signature, ATOL, RTOL)
                    largest = max(largest, difference)
        finally:
            load_weights(self.weights)
        return largest


def perturbed(weights: Mapping[str, np.ndarray], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Every float moved, none across zero (a variance stays one), from zero upwards, and none towards infinity.

    Matrices move with their signs, and by the less the more inputs they sum over: sums stay of the size that they
    were, and so does their rounding, however wide a layer is.
    """
    moved = {}
    for name, array in weights.items():
        if array.dtype.kind != "f":
            moved[name] = array
            continue
        step = generator.uniform(0.05, 0.15, array.shape)
        added = step / 2 / _inputs_summed(array) ** 0.5
        moved[name] = np.asarray(array * (1 - step) + np.where(array < 0, -added, added)).astype(array.dtype)
    return moved


def _inputs_summed(array: np.ndarray) -> int:
    """As torch lays out its layers: outputs first."""
    return max(1, math.prod(array.shape[1:]))


def write_weights(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copy ``weights``, which must fit, into the module's parameters and buffers."""
    for name, tensor in module_tensors(module).items():
        np.copyto(tensor.numpy(), weights[name], casting="no")
