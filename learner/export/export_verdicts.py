"""What is said of a program once its outputs have been compared with eager: taken, or refused for which reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import ExportError, one_line
from shared.policy.manifest import MethodReport

EXAMPLE_ROWS = 3  # rows of the example that programs are made with; exporters take 0 and 1 for constants
ATOL = RTOL = 1e-5
MOST_CHARACTERS = 400
"""Of an error's message in a report."""

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
LoadWeights = Callable[[Mapping[str, np.ndarray]], None]


class BakedBatchError(ExportError):
    """Right at the batch size of the example alone."""


@dataclass(frozen=True)
class Failure:
    """One comparison that failed. ``inputs_set`` 0 is the example's own, at every batch size."""

    batch_size: int | None
    inputs_set: int
    said: str


def refusal(failures: Sequence[Failure], example_rows: int | None) -> ExportError:
    """The reason why a program, made with ``example_rows`` of set 0, failed where it did: one sentence."""
    first = failures[0]
    if any((failure.batch_size, failure.inputs_set) == (example_rows, 0) for failure in failures):
        return ExportError(f"the program does not compute what the eager module computes: {first.said}")
    others = [failure for failure in failures if failure.batch_size == example_rows]
    if not others and not any(failure.inputs_set == 0 for failure in failures):
        others = list(failures)  # right at every batch size, for the example's inputs
    if others:
        return ExportError(
            f"a branch or a value was baked in: for other inputs of the same shapes it differs ({others[0].said}); "
            "script keeps decisions, and so does torch.where"
        )
    return BakedBatchError(
        f"the batch size was baked in: made at {example_rows} rows, it is wrong at {first.batch_size} ({first.said}); "
        "take sizes from the tensors (x.shape[0]) where they are needed"
    )


def stale_weights(error: Exception) -> ExportError:
    """The reason where a program is right with the weights that it was made with, and with no others."""
    return ExportError(f"new weights do not reach all of the program: {one_line(error, MOST_CHARACTERS)}")


def taken(method: str, differences: Mapping[int, float], input_sets: int) -> MethodReport:
    """The report of a program that equals eager. ``differences`` by batch size, 0 where there is no batch."""
    by_size = {str(size): difference for size, difference in sorted(differences.items()) if size}
    largest = max(differences.values(), default=0.0)
    return MethodReport(method, True, largest_difference=largest, by_batch_size=by_size, input_sets=input_sets)
