"""Which engine runs a version: what was asked for first, and for ``auto`` what is measured to be faster here."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from shared.engines.engine import Engine, EngineChoice, EngineKind
from shared.errors import ConfigurationError

# Another engine's library takes a part of a second to import and tens of megabytes, torch a second or more and some
# 200 MB. Only calls that take longer than this leave something to win that is worth it.
WORTH_AN_IMPORT_S = 1e-3

_BUDGET_S = 4e-3
_LEAST_CALLS = 5
# What is measured within this of each other may turn round tomorrow: the first of the fixed order is taken.
_CLEARLY_FASTER = 0.9

FIXED_ORDER: tuple[EngineKind, ...] = ("llvm", "onnx", "torchscript", "aot", "eager")

CHALLENGERS: Mapping[EngineKind, EngineKind] = {"llvm": "onnx", "onnx": "torchscript"}
"""For ``auto``: which engine may turn out to be faster than the one that the order comes to first."""
_LIBRARIES: Mapping[EngineKind, str] = {"onnx": "onnxruntime", "torchscript": "torch"}


def order_of(choice: EngineChoice) -> tuple[EngineKind, ...]:
    """The order in which engines are tried before anything was measured: ``choice`` first, the others as fallbacks.

    ``compile`` stands in no other order: whoever did not ask for it would wait for a compiler.
    """
    if choice == "auto":
        return FIXED_ORDER
    return (choice, *(kind for kind in FIXED_ORDER if kind != choice))


def check_trusted(choice: EngineChoice, *, trust_native: bool, trusted_modules: Sequence[str]) -> None:
    """Raise ConfigurationError where ``choice`` could never act, since what it runs was not allowed by name."""
    if choice == "aot" and not trust_native:
        raise ConfigurationError("--engine aot runs native code out of the store: allow it with --trust-native")
    if choice in ("compile", "eager") and not trusted_modules:
        raise ConfigurationError(
            f"--engine {choice} imports the policy's class: allow its module by name, with --trust-module PREFIX "
            "(--trust-module learner for policies that were trained with this project)"
        )


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


def is_worth_measuring(challenger: EngineKind, call_s: float) -> bool:
    """Whether ``challenger`` could be the better choice by enough to pay for its library in this process.

    ``call_s`` is what a call takes now.
    """
    return _LIBRARIES[challenger] in sys.modules or call_s > WORTH_AN_IMPORT_S


def is_clearly_faster(challenger_s: float, incumbent_s: float) -> bool:
    """Whether a measured difference is more than chance."""
    return challenger_s < _CLEARLY_FASTER * incumbent_s
