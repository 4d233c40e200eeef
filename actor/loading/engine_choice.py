"""The order in which engines are tried, and the measurement by which ``auto`` prefers one."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from shared.engines.engine import NATIVE_ENGINES, Engine, EngineChoice, EngineKind
from shared.engines.load import PROGRAM_OF
from shared.errors import ConfigurationError
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import Manifest, ProgramEntry

# Importing torch takes a second or more and some 200 MB. Only calls that take longer than this can gain that much.
WORTH_AN_IMPORT_S = 1e-3
_BUDGET_S = 4e-3
_LEAST_CALLS = 5
_CLEARLY_FASTER = 0.9  # a smaller difference may be noise: the first of the fixed order is used
FIXED_ORDER: tuple[EngineKind, ...] = ("llvm", "onnx", "torchscript", "executorch", "aot", "eager")
# For auto: the engines that may be faster than the first one that works.
_CHALLENGERS: Mapping[EngineKind, tuple[EngineKind, ...]] = {
    "llvm": ("onnx",),
    "onnx": ("torchscript", "executorch"),
    "torchscript": ("executorch",),
}
_LIBRARIES: Mapping[EngineKind, str] = {"onnx": "onnxruntime", "torchscript": "torch", "executorch": "executorch"}


def order_of(choice: EngineChoice) -> tuple[EngineKind, ...]:
    """Return the engines to try, ``choice`` first. ``compile`` is no fallback: it would start a compiler unasked."""
    if choice == "auto":
        return FIXED_ORDER
    return (choice, *(kind for kind in FIXED_ORDER if kind != choice))


def check_trusted(choice: EngineChoice, trust: ProgramTrust) -> None:
    """Raise ConfigurationError for a ``choice`` without the permission that it needs."""
    if choice in NATIVE_ENGINES and not trust.native:
        raise ConfigurationError(f"--engine {choice} runs native code from the store: allow it with --trust-native")
    if choice in ("compile", "eager") and not trust.modules:
        raise ConfigurationError(
            f"--engine {choice} imports the policy's class: allow its module by name, with --trust-module PREFIX "
            "(--trust-module learner for policies that were trained with this project)"
        )


def challengers(kind: EngineKind, manifest: Manifest, trust: ProgramTrust) -> Iterator[tuple[EngineKind, ProgramEntry]]:
    """Yield the engines that may be faster than ``kind`` and are permitted, with their programs."""
    for challenger in _CHALLENGERS.get(kind, ()):
        entry = manifest.program(PROGRAM_OF[challenger])
        if entry is not None and (trust.native or challenger not in NATIVE_ENGINES):
            yield challenger, entry


def median_call_s(engines: Sequence[Engine], inputs: Sequence[np.ndarray]) -> list[float]:
    """Return the median seconds of a call of each engine, from interleaved calls during a few milliseconds."""
    times: list[list[float]] = [[] for _ in engines]
    deadline = time.perf_counter() + _BUDGET_S
    while len(times[0]) < _LEAST_CALLS or time.perf_counter() < deadline:
        for engine, measured in zip(engines, times, strict=True):
            began = time.perf_counter()
            engine.run(inputs)
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured) for measured in times]


def faster_challenger(
    engine: Engine,
    challenger: EngineKind,
    inputs: Sequence[np.ndarray],
    load: Callable[[], tuple[Engine, str] | None],
) -> tuple[Engine, str] | None:
    """Return what ``load`` returns, a challenger and its name, if it is clearly faster than ``engine`` for ``inputs``.

    It is loaded only if it may gain more than its library costs.
    """
    (own_s,) = median_call_s([engine], inputs)
    if not is_worth_measuring(challenger, own_s) or (other := load()) is None:
        return None
    own_s, other_s = median_call_s([engine, other[0]], inputs)
    return other if is_clearly_faster(other_s, own_s) else None


def is_worth_measuring(challenger: EngineKind, call_s: float) -> bool:
    """Return True when ``challenger`` may gain more than its library costs, for calls that take ``call_s`` now."""
    return _LIBRARIES[challenger] in sys.modules or call_s > WORTH_AN_IMPORT_S


def is_clearly_faster(challenger_s: float, incumbent_s: float) -> bool:
    """Return True when the measured difference is more than noise."""
    return challenger_s < _CLEARLY_FASTER * incumbent_s
