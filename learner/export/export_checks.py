"""When a program counts as the policy: equal to eager at three batch sizes, for two sets of inputs, and new weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from learner.export.export_verdicts import (
    ATOL,
    EXAMPLE_ROWS,
    MOST_CHARACTERS,
    RTOL,
    Failure,
    LoadWeights,
    Run,
    refusal,
    stale_weights,
)
from shared.engines.eager import module_tensors
from shared.errors import ExportError, PolicyError, one_line
from shared.policy.probe import MakeInputs, Probe, compare, compute_probe, make_inputs
from shared.policy.signature import PolicySignature

BATCH_SIZES = (EXAMPLE_ROWS, 1, 64)


@dataclass(frozen=True)
class _Case:
    batch_size: int
    inputs_set: int
    probe: Probe


class ExportChecks:
    """What the eager policy computes with its weights as they are, and with every float among them changed.

    A loop that was baked in shows at another batch size, a branch for other inputs, a folded weight once the weights
    have changed.
    """

    input_sets = 2

    def __init__(self, module: nn.Module, signature: PolicySignature) -> None:
        """Raises ExportError where the policy does not return what its signature says. ``module`` ends as it was."""
        self._module = module
        self._signature = signature
        self.weights = {name: tensor.numpy().copy() for name, tensor in module_tensors(module).items()}
        self._other_weights = perturbed(self.weights, np.random.default_rng(0))
        write_weights(module, self._other_weights)
        self._reweighted = self._cases(0, make_inputs)
        write_weights(module, self.weights)
        self._as_they_are = [*self._cases(0, make_inputs), *self._other_cases()]

    @property
    def example(self) -> list[Tensor]:
        """The flat inputs that programs are made with."""
        return [torch.from_numpy(array.copy()) for array in self._as_they_are[0].probe.inputs]

    def differences(self, run: Run, load_weights: LoadWeights) -> dict[int, float]:
        """The largest difference of any float output by batch size. The weights end as they were.

        Raises ExportError with the reason where one is too large.
        """
        found: dict[int, float] = {}
        failures = []
        try:
            load_weights(self.weights)
            for case in self._as_they_are:
                try:
                    difference = self._difference(run, case)
                except PolicyError as error:
                    failures.append(Failure(case.batch_size, case.inputs_set, one_line(error, MOST_CHARACTERS)))
                else:
                    found[case.batch_size] = max(found.get(case.batch_size, 0.0), difference)
            if failures:
                raise refusal(failures, EXAMPLE_ROWS)
            load_weights(self._other_weights)
            for case in self._reweighted:
                try:
                    difference = self._difference(run, case)
                except PolicyError as error:
                    raise stale_weights(error) from error
                found[case.batch_size] = max(found[case.batch_size], difference)
        finally:
            load_weights(self.weights)
        return found

    def _other_cases(self) -> list[_Case]:
        try:
            return self._cases(1, one_sided_inputs)
        except ExportError:  # what it answers to such is not finite, or no clear choice
            return self._cases(1, make_inputs, seed=1000)

    def _cases(self, inputs_set: int, make: MakeInputs, seed: int = 0) -> list[_Case]:
        return [
            _Case(
                size,
                inputs_set,
                compute_probe(self._module, self._signature, batch_size=size, seed=seed + size, make=make),
            )
            for size in BATCH_SIZES
        ]

    def _difference(self, run: Run, case: _Case) -> float:
        return compare(case.probe.outputs, run(case.probe.inputs), self._signature, ATOL, RTOL)


def one_sided_inputs(signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
    """As ``make_inputs``, but the floats that are observed or remembered have one sign, and none is near zero.

    Which sign it is depends on the batch size, so a branch on any sum, mean, least or largest goes both ways.
    """
    inputs = make_inputs(signature, batch_size, seed)
    sign = -1 if batch_size == EXAMPLE_ROWS else 1
    return [
        np.asarray(sign * (np.abs(array) + 0.5), array.dtype)
        if array.dtype.kind == "f" and spec.role in ("observation", "state")
        else array
        for array, spec in zip(inputs, signature.inputs, strict=True)
    ]


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
