"""Whether a program computes what the eager module computes, and if not, the one sentence that says why."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from learner.export.eager_cases import Case, EagerCases
from learner.export.export_checks import perturbed
from learner.export.export_verdicts import ATOL, MOST_CHARACTERS, Failure, LoadWeights, Run, refusal, stale_weights
from shared.errors import ExportError, PolicyError, one_line
from shared.policy.probe import compare_outputs

_EPSILONS = 32  # of the coarsest dtype among the outputs: float16 is no nearer to itself than that


@dataclass(frozen=True)
class ReweightedCase:
    """What the eager module answers with every float among its weights changed."""

    weights: Mapping[str, np.ndarray]
    case: Case


class ProgramChecks:
    """Holds programs to ``cases``. ``weights`` are the program's, by the names that its engine knows them by."""

    def __init__(
        self,
        cases: EagerCases,
        weights: Mapping[str, np.ndarray],
        write: LoadWeights,
    ) -> None:
        """``write`` puts weights into the eager module, which ends as it was."""
        self._cases = cases
        self._weights = weights
        self._names = [spec.name for spec in cases.signature.outputs]
        floats = [np.dtype(spec.dtype) for spec in cases.signature.outputs if np.dtype(spec.dtype).kind == "f"]
        self.tolerance = max([ATOL, *(_EPSILONS * float(np.finfo(dtype).eps) for dtype in floats)])
        self._reweighted = self._reweigh(write)

    def differences(self, run: Run, load_weights: LoadWeights) -> dict[int, float]:
        """The largest difference from eager by batch size (0: no batch). Raises ExportError with the reason."""
        found: dict[int, float] = {}
        failures: list[Failure] = []
        for case in self._cases.cases:
            try:
                difference = self._difference(run, case)
            except PolicyError as error:
                failures.append(Failure(case.batch_size, case.inputs_set, one_line(error, MOST_CHARACTERS)))
            else:
                size = case.batch_size or 0
                found[size] = max(found.get(size, 0.0), difference)
        if failures:
            raise refusal(failures, self._cases.cases[0].batch_size)
        self._check_reweighted(run, load_weights)
        return found

    def _difference(self, run: Run, case: Case) -> float:
        return compare_outputs(self._names, case.outputs, run(case.inputs), self.tolerance, self.tolerance)

    def _reweigh(self, write: LoadWeights) -> ReweightedCase | None:
        if not any(array.dtype.kind == "f" for array in self._weights.values()):
            return None
        weights = perturbed(self._weights, np.random.default_rng(0))
        inputs = self._cases.cases[0].inputs
        try:
            write(weights)
            outputs = self._cases.answer(inputs)
        except ExportError:
            return None  # these weights are none that the module takes
        finally:
            write(self._weights)
        return ReweightedCase(weights, Case(self._cases.cases[0].batch_size, 0, inputs, outputs))

    def _check_reweighted(self, run: Run, load_weights: LoadWeights) -> None:
        if self._reweighted is None:
            return
        try:
            load_weights(self._reweighted.weights)
            self._difference(run, self._reweighted.case)
        except PolicyError as error:
            raise stale_weights(error) from error
        finally:
            load_weights(self._weights)
