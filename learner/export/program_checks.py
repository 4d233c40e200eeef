"""Comparison of a program with the eager module: at several batch sizes, for several inputs, with other weights.

A loop that was baked in differs at another batch size, a baked-in branch for other inputs, a folded weight after the
weights have changed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from shared.engines.eager import module_arrays
from shared.engines.torch_arrays import tensor_of
from shared.errors import ExportError, PolicyError, one_line
from shared.operators.program_check import check_program
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import ProgramKind
from shared.policy.weights import is_float

ATOL = RTOL = 1e-5
_MOST_NUMBERS = 4_000_000
_MOST_PRODUCTS = 1_000_000_000
_MOST_CHARACTERS = 400

Arrays = Sequence[np.ndarray]
Weights = Mapping[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]
LoadWeights = Callable[[Weights], None]
Compare = Callable[[Arrays, Arrays, float], float]
"""Takes expected and found outputs and a factor of the tolerances.

Returns the largest difference, raises PolicyError if it is too large.
"""


class BakedBatchError(ExportError):
    """The program is right at the batch size of the example only."""


@dataclass(frozen=True)
class Case:
    """One call of the eager module. ``batch_size`` is None without a batch; ``inputs_set`` 0 is the example's own.

    ``magnitude`` is that of wide inputs. Rounding grows with ``scale``, a factor of the tolerances. ``sizes`` are the
    named sizes, and ``is_resized`` is True if they are not those that the programs are made with.
    """

    batch_size: int | None
    inputs_set: int
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    magnitude: float | None = None
    scale: float = 1.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    is_resized: bool = False

    @property
    def size(self) -> str:
        """The size in reports: the batch size, or the named sizes where these differ; empty without a batch."""
        if self.is_resized:
            return ",".join(f"{name}={size}" for name, size in self.sizes.items())
        return "" if self.batch_size is None else str(self.batch_size)


@dataclass(frozen=True)
class ProgramChecks:
    """Calls of the eager module that a program must reproduce; the program is made with the inputs of the first.

    ``other_weights`` differ from ``weights`` in every float, and ``reweighted`` are calls with those.
    """

    weights: Weights
    cases: Sequence[Case]
    compare: Compare
    other_weights: Weights
    reweighted: Sequence[Case]

    @property
    def example(self) -> list[Tensor]:
        return [tensor_of(array.copy()) for array in self.cases[0].inputs]

    @property
    def input_sets(self) -> int:
        return 1 + max(case.inputs_set for case in self.cases)

    def differences(self, run: Run, load_weights: LoadWeights) -> dict[str, float]:
        """Return the largest difference by size (``Case.size``), divided by the scale of its case.

        Raises ExportError if a difference is too large.
        """
        found: dict[str, float] = {}
        failures: list[tuple[Case, str]] = []
        for case in self.cases:
            try:
                difference = self.compare(case.outputs, run(case.inputs), case.scale)
                found[case.size] = max(found.get(case.size, 0.0), difference / case.scale)
            except PolicyError as error:
                failures.append((case, one_line(error, _MOST_CHARACTERS)))
        if failures:
            raise self._refusal(failures)
        if self.reweighted:
            try:
                load_weights(self.other_weights)
                self._compare_reweighted(run)
            finally:
                load_weights(self.weights)
        return found

    def _compare_reweighted(self, run: Run) -> None:
        for case in self.reweighted:
            try:
                self.compare(case.outputs, run(case.inputs), case.scale)
            except PolicyError as error:
                reason = one_line(error, _MOST_CHARACTERS)
                raise ExportError(f"new weights do not reach all of the program: {reason}") from error

    def _refusal(self, failures: Sequence[tuple[Case, str]]) -> ExportError:
        rows = self.cases[0].batch_size
        first, said = failures[0]
        if all(case.is_resized for case, _ in failures):
            made = ", ".join(f"{name} = {size}" for name, size in self.cases[0].sizes.items())
            return ExportError(
                f"a size was baked in: made with {made}, the program is wrong for {first.size} ({said}); "
                "take sizes from the tensors (x.shape[1]) where they are needed"
            )
        failures = [(case, words) for case, words in failures if not case.is_resized]
        first, said = failures[0]
        if any((case.batch_size, case.inputs_set) == (rows, 0) for case, _ in failures):
            return ExportError(f"the program does not compute what the eager module computes: {said}")
        if all(case.magnitude is not None for case, _ in failures):
            return ExportError(
                f"right for small inputs only: for numbers up to {first.magnitude:g} the program differs ({said}); "
                "use an operator's stable form (log_softmax, softplus), and torch.where for a branch"
            )
        failures = [(case, words) for case, words in failures if case.magnitude is None]
        first, said = failures[0]
        others = [words for case, words in failures if case.batch_size == rows]
        if not others and not any(case.inputs_set == 0 for case, _ in failures):
            others = [said]  # right at every batch size, for the example's inputs
        if others:
            return ExportError(
                f"a branch or a value was baked in: for other inputs of the same shapes it differs ({others[0]}); "
                "script keeps decisions, and so does torch.where"
            )
        return BakedBatchError(
            f"the batch size was baked in: made at {rows} rows, it is wrong at {first.batch_size} ({said}); "
            "take sizes from the tensors (x.shape[0]) where they are needed"
        )


def affordable_sizes(sizes: Sequence[int], numbers_per_row: int, n_weights: int) -> list[int]:
    """Return those of ``sizes`` for which calls of the module take about a tenth of a second at most."""
    return [rows for rows in sizes if rows * numbers_per_row <= _MOST_NUMBERS and rows * n_weights <= _MOST_PRODUCTS]


def check_operators(kind: ProgramKind, data: bytes, trust: ProgramTrust) -> None:
    """Raise OperatorNotAllowed for a program that actors with the permissions ``trust`` refuse for its operators."""
    check_program(kind, data, trust)


def perturbed(weights: Weights, seed: int = 0) -> dict[str, np.ndarray]:
    """Return weights with every float moved, by less in wide layers; signs and infinities stay, zeros grow."""
    generator = np.random.default_rng(seed)
    moved = {}
    for name, array in weights.items():
        if not is_float(array.dtype):
            moved[name] = array
            continue
        inputs_summed = max(1, math.prod(array.shape[1:]))  # torch's layers have their outputs first
        step = generator.uniform(0.05, 0.15, array.shape)
        added = step / 2 / inputs_summed**0.5
        moved[name] = np.asarray(array * (1 - step) + np.where(array < 0, -added, added)).astype(array.dtype)
    return moved


def write_weights(module: nn.Module, weights: Weights) -> None:
    """Copy ``weights``, which must fit, into the module's parameters and buffers."""
    for name, array in module_arrays(module).items():
        np.copyto(array, weights[name], casting="no")
