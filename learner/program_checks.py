"""Whether a program computes what the eager module computes, and if not, the one sentence that says why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from learner.eager_cases import Case, EagerCases
from learner.export_checks import perturbed
from shared.errors import ExportError, PolicyError
from shared.module_probe import compare_outputs

ATOL = RTOL = 1e-5
_EPSILONS = 32  # of the coarsest dtype among the outputs: float16 is no nearer to itself than that

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
LoadWeights = Callable[[Mapping[str, np.ndarray]], None]


class BakedBatchError(ExportError):
    """Right at the batch size of the example alone."""


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
        failures: list[tuple[Case, str]] = []
        for case in self._cases.cases:
            try:
                difference = self._difference(run, case)
            except PolicyError as error:
                failures.append((case, _one_line(error)))
            else:
                size = case.batch_size or 0
                found[size] = max(found.get(size, 0.0), difference)
        if failures:
            raise self._reason(failures)
        self._check_reweighted(run, load_weights)
        return found

    def _difference(self, run: Run, case: Case) -> float:
        return compare_outputs(self._names, case.outputs, run(case.inputs), self.tolerance, self.tolerance)

    def _reason(self, failures: list[tuple[Case, str]]) -> ExportError:
        first = self._cases.cases[0]
        said = failures[0][1]
        if any(case is first for case, _ in failures):
            return ExportError(f"the program does not compute what the eager module computes: {said}")
        at_its_size = [said for case, said in failures if case.batch_size == first.batch_size]
        if at_its_size:
            return ExportError(
                f"a branch or a value was baked in: for other inputs of the same shapes it differs ({at_its_size[0]}); "
                "script keeps decisions, and so does torch.where"
            )
        case = failures[0][0]
        return BakedBatchError(
            f"the batch size was baked in: made at {first.batch_size} rows, it is wrong at {case.batch_size} ({said}); "
            "take sizes from the tensors (x.shape[0]) where they are needed"
        )

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
            raise ExportError(f"new weights do not reach all of the program: {_one_line(error)}") from error
        finally:
            load_weights(self._weights)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:400]
