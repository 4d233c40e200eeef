"""Which engine is faster here, at the batch size in use: measured, shortly, and remembered by the caller."""

import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from shared.engines.engine import Engine, EngineChoice
from shared.manifest import ProgramKind

# Importing torch takes a second or more and some 200 MB, and its own dispatch alone takes longer than a small network
# on ONNX Runtime. Only calls that take longer than this leave TorchScript something to win that is worth its import.
WORTH_IMPORTING_TORCH_S = 1e-3

_BUDGET_S = 4e-3
_LEAST_CALLS = 5
# What is measured within this of each other may turn round tomorrow: the first of the fixed order is taken.
_CLEARLY_FASTER = 0.9

FIXED_ORDER: tuple[ProgramKind, ...] = ("onnx", "torchscript", "importable")


def order_of(choice: EngineChoice) -> tuple[ProgramKind, ...]:
    """The order in which programs are tried before anything was measured: ``choice`` first, the others as fallbacks."""
    if choice == "torchscript":
        return ("torchscript", "onnx", "importable")
    return FIXED_ORDER


def median_call_s(engines: Sequence[Engine], inputs: Sequence[np.ndarray]) -> list[float]:
    """Median seconds of one call of each engine; calls interleaved, for a few milliseconds in all."""
    times: list[list[float]] = [[] for _ in engines]
    deadline = time.perf_counter() + _BUDGET_S
    while len(times[0]) < _LEAST_CALLS or time.perf_counter() < deadline:
        for engine, measured in zip(engines, times, strict=True):
            began = time.perf_counter()
            engine.run(inputs)
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured) for measured in times]


def is_worth_measuring_torchscript(onnx_call_s: float) -> bool:
    """Whether TorchScript could be the better choice by enough to pay for having torch in this process."""
    return "torch" in sys.modules or onnx_call_s > WORTH_IMPORTING_TORCH_S


def is_clearly_faster(challenger_s: float, incumbent_s: float) -> bool:
    """Whether a measured difference is more than chance."""
    return challenger_s < _CLEARLY_FASTER * incumbent_s
