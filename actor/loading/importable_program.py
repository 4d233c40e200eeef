"""The engine_names of an importable policy (class path plus weights) in the actor: scripted, else traced, else
eager.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportedProgram:
    """``engine_name`` is ``script``, ``trace`` or ``eager``; ``refusals`` are (engine_name, what it said) of those
    above it.
    """

    engine: Engine
    engine_name: str
    refusals: tuple[tuple[str, str], ...]


def import_program(
    definition: bytes,
    weights: Mapping[str, np.ndarray],
    verifier: ProbeVerifier,
    program_digest: str,
    trusted_modules: tuple[str, ...],
) -> ImportedProgram:
    """Import the class that ``definition`` names, give it ``weights``, and find the first engine_name that answers
    the probe.

    Raises NotTrusted unless its module is under one of ``trusted_modules``, WeightsError and ProgramError otherwise.
    """
    import torch

    from shared.engines.eager import EagerEngine
    from shared.engines.importable import load_importable
    from shared.scripting.scripting import try_methods

    module = load_importable(definition, weights, trusted_modules)
    example = [torch.from_numpy(array.copy()) for array in verifier.probe_inputs]

    def check(candidate: Callable[[list["Tensor"]], list["Tensor"]]) -> float:
        def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                found = candidate([torch.from_numpy(array.copy()) for array in inputs])
                return [found[position].numpy().copy() for position in verifier.outputs]

        return verifier.check(run)

    scripted, failures = try_methods(module, example, check)
    refusals = tuple((report.method, report.error or "") for report in failures)
    if scripted is None:
        return ImportedProgram(EagerEngine(module, program_digest, verifier.outputs), "eager", refusals)
    return ImportedProgram(EagerEngine(scripted.module, program_digest, verifier.outputs), scripted.method, refusals)
