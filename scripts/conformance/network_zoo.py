"""``python scripts/conformance/network_zoo.py``: kinds of networks that export, and engines that agree with eager."""

import importlib.util
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actor.acting.module_call import LoadedModule, load_policy
from learner.export.module_export import export_module
from scripts.conformance.zoo import actors, entities, numerics, recurrent, transformers, values, vision
from scripts.conformance.zoo.network import Network
from shared.engines.engine import EngineKind
from shared.engines.load import PROGRAM_OF
from shared.errors import ExportError, PolicyLoadError, one_line
from shared.policy.manifest import ProgramKind
from shared.policy.nested_values import describe, unflatten

ATOL = RTOL = 1e-5
BATCH_SIZES = (1, 2, 7, 33, 64, 1000)
MAGNITUDES = (0.0, 1e-6, 10.0, 100.0, 1e4)  # of the rows of wide inputs, in turn
ENGINES = tuple(kind for kind in PROGRAM_OF if kind not in ("aot", "compile", "eager"))
"""Engines that need neither a compiler of tens of seconds nor the module's class."""
_EXAMPLE_ROWS = 3
_ROUNDING = 1e-6  # of inputs, relative: about eight units in the last place of float32, as in published probes
_MOVES = 8
_STEADY = 0.25  # of the tolerance: rounding within a network may add up to more than that of its inputs
_LARGEST_STATE = 10.0  # a state is a result of the network

_Arrays = list[np.ndarray]

NETWORKS: tuple[Network, ...] = tuple(
    network
    for family in (vision, recurrent, transformers, entities, values, actors, numerics)
    for network in family.NETWORKS
)


@dataclass
class Agreement:
    """The comparison of one engine with eager; ``reason`` if the engine has no such program or refuses it.

    ``of_allowed`` is the largest difference as a share of ``1e-5 + 1e-5 * |x|``, ``wide_rows`` the compared rows of
    wide inputs. ``equal`` is False if integers, infinities or NaN differ.
    """

    engine: EngineKind
    reason: str = ""
    of_allowed: float = 0.0
    wide_rows: int = 0
    equal: bool = True

    @property
    def agrees(self) -> bool:
        return self.equal and self.of_allowed <= 1


@dataclass
class Result:
    """The methods by which one network exports, and its engines; ``reason`` if no method succeeds."""

    network: Network
    methods: tuple[str, ...] = ()
    reason: str = ""
    engines: list[Agreement] = field(default_factory=list)

    @property
    def disagreeing(self) -> list[Agreement]:
        return [found for found in self.engines if not found.reason and not found.agrees]


def is_missing(network: Network) -> bool:
    """Return True if a package that the network needs is not installed."""
    return bool(network.needs) and importlib.util.find_spec(network.needs) is None


def measure(
    network: Network, batch_sizes: Sequence[int] = BATCH_SIZES, programs: tuple[ProgramKind, ...] = ()
) -> Result:
    """Export ``network`` by the methods of ``programs``, and compare every engine that loads it with the module."""
    torch.manual_seed(0)
    module = network.make().eval()
    example = network.draw(_EXAMPLE_ROWS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "exported"
        try:
            report = export_module(module, example, path, programs=programs)
        except ExportError as error:
            return Result(network, reason=one_line(error))
        calls = [_Call(module, network, n, wide=wide) for n in batch_sizes for wide in (False, True)]
        kinds = [kind for kind in ENGINES if report.manifest.program(PROGRAM_OF[kind]) is not None]
        return Result(network, report.taken, engines=[_compare(kind, path, calls) for kind in kinds])


class _Call:
    """One call of the module: its arguments, its outputs, and the rows whose outputs rounding does not decide."""

    def __init__(self, module: nn.Module, network: Network, rows: int, *, wide: bool) -> None:
        torch.manual_seed(rows)
        generator = np.random.default_rng(rows)
        drawn = network.draw(rows)
        if wide:
            drawn = tuple(_wide(each, generator, i in network.states) for i, each in enumerate(drawn))
        arguments, tensors, classes = describe(drawn)
        self.wide = wide
        self.arguments = drawn
        self.outputs = _flat(module, self.arguments)
        self.steady = np.ones(rows, np.bool_)
        for _ in range(_MOVES if any(map(torch.is_floating_point, tensors)) else 0):
            moved = [_moved(leaf, generator) for leaf in tensors]
            near = _flat(module, unflatten(arguments, moved, classes))
            for expected, found in zip(self.outputs, near, strict=True):
                self.steady &= (_excess(expected, found) <= _STEADY).reshape(rows, -1).all(-1)

    def compare(self, found: _Arrays, agreement: Agreement) -> None:
        """Add the differences of ``found`` to ``agreement``: of all rows, or of the steady ones of wide inputs."""
        rows = self.steady if self.wide else np.ones_like(self.steady)
        for expected, got in zip(self.outputs, found, strict=True):
            excess = _excess(expected[rows], got[rows])
            agreement.equal &= got.dtype == expected.dtype and bool(np.isfinite(excess).all())
            agreement.of_allowed = max(agreement.of_allowed, float(np.nan_to_num(excess, posinf=0).max(initial=0)))
        agreement.wide_rows += int(self.wide) * int(rows.sum())


def _compare(kind: EngineKind, path: Path, calls: Sequence[_Call]) -> Agreement:
    try:
        loaded = load_policy(path, engine=kind, sandbox=None, trusted_modules=("torch",))
    except PolicyLoadError as error:
        return Agreement(kind, reason=f"{type(error).__name__}: {one_line(error, 200)}")
    agreement = Agreement(kind)
    for call in calls:
        call.compare(_flat(loaded, call.arguments), agreement)
    return agreement


def _flat(call: nn.Module | LoadedModule, arguments: tuple[Any, ...]) -> _Arrays:
    with torch.no_grad():
        return [leaf.numpy().copy() for leaf in describe(call(*arguments))[1]]


def _wide(argument: Any, generator: np.random.Generator, is_state: bool) -> Any:
    structure, tensors, classes = describe(argument)
    return unflatten(structure, [_wide_tensor(tensor, generator, is_state) for tensor in tensors], classes)


def _wide_tensor(tensor: Tensor, generator: np.random.Generator, is_state: bool) -> Tensor:
    """Return floats of the magnitudes, each row of one and none equal, of 10 at most in states; bytes of 0 and 255."""
    if tensor.dtype == torch.uint8:
        return torch.from_numpy(generator.choice(np.array([0, 255], np.uint8), tuple(tensor.shape)))
    if not tensor.is_floating_point():
        return tensor
    magnitudes = np.minimum(MAGNITUDES, _LARGEST_STATE if is_state else np.inf)
    rows = np.resize(magnitudes, len(tensor)).reshape(-1, *[1] * (tensor.ndim - 1))
    small = generator.random(tuple(tensor.shape)) < 0.2
    size = np.where(small, np.minimum(rows, 1), rows) * generator.uniform(0.5, 1, tuple(tensor.shape))
    return torch.from_numpy(size).to(tensor.dtype) * _signs(tensor, generator)


def _moved(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    return tensor * (1 + _ROUNDING * _signs(tensor, generator)) if tensor.is_floating_point() else tensor


def _signs(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(generator.choice([-1.0, 1.0], tuple(tensor.shape))).to(tensor.dtype)


def _excess(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return each difference as a share of the tolerance; infinity where values have to be equal and are not."""
    if expected.dtype.kind != "f":
        return np.where(expected == found, 0.0, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.abs(np.subtract(found, expected, dtype=np.float64)) / (ATOL + RTOL * np.abs(expected))
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    return np.where(same, 0.0, np.nan_to_num(share, nan=np.inf))


def describe_result(result: Result) -> str:
    """Return one line: the methods, and each engine with the largest difference as a share of the tolerance."""
    if not result.methods:
        return f"{result.network.name}: refused: {result.reason}"
    engines = [
        f"{each.engine} {'-' if each.reason else f'{each.of_allowed:.0%}' if each.equal else 'DIFFERENT VALUES'}"
        for each in result.engines
    ]
    return f"{result.network.name}: {', '.join(result.methods)}; of the tolerance: {', '.join(engines)}"


def main() -> int:
    """Print a line for each network. Return 1 if an engine disagrees, or a network is refused that should not be."""
    warnings.simplefilter("ignore")
    results = []
    for network in NETWORKS:
        if is_missing(network):
            print(f"{network.name}: not tried, install {network.needs}")
            continue
        results.append(measure(network))
        print(describe_result(results[-1]), flush=True)
    exported = [result for result in results if result.methods]
    runs = Counter(each.engine for result in exported for each in result.engines if not each.reason)
    wrong = [f"{each.engine} on {result.network.name}" for result in exported for each in result.disagreeing]
    print(
        f"{len(exported)} of {len(results)} networks export; "
        + ", ".join(f"{kind} runs {n}" for kind, n in runs.items())
    )
    print(f"wrong: {', '.join(wrong) or 'none'}")
    unexpected = [result for result in results if not result.methods and not result.network.refused]
    return 1 if wrong or unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main())
