"""The rungs of an importable policy (class path plus weights) in the actor: scripted, else traced, else eager."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actor.version_checks import ProbeExam
from shared.engines.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportedProgram:
    """``rung`` is ``script``, ``trace`` or ``eager``; ``refusals`` are (rung, what it said) of those above it."""

    engine: Engine
    rung: str
    refusals: tuple[tuple[str, str], ...]


def import_program(
    definition: bytes,
    weights: Mapping[str, np.ndarray],
    exam: ProbeExam,
    program_digest: str,
    trusted_modules: tuple[str, ...],
) -> ImportedProgram:
    """Import the class that ``definition`` names, give it ``weights``, and find the first rung that answers the probe.

    Raises NotTrusted unless its module is under one of ``trusted_modules``, WeightsError and ProgramError otherwise.
    """
    import torch

    from shared.engines.eager import EagerEngine
    from shared.importable import load_importable
    from shared.scripting import climb

    module = load_importable(definition, weights, trusted_modules)
    example = [torch.from_numpy(array.copy()) for array in exam.probe_inputs]

    def check(candidate: Callable[[list["Tensor"]], list["Tensor"]]) -> float:
        def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                found = candidate([torch.from_numpy(array.copy()) for array in inputs])
                return [found[position].numpy().copy() for position in exam.outputs]

        return exam.check(run)

    scripted, failures = climb(module, example, check)
    refusals = tuple((report.rung, report.error or "") for report in failures)
    if scripted is None:
        return ImportedProgram(EagerEngine(module, program_digest, exam.outputs), "eager", refusals)
    return ImportedProgram(EagerEngine(scripted.module, program_digest, exam.outputs), scripted.rung, refusals)
