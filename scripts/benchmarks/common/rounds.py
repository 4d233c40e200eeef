"""Settings of all benchmarks, and interleaved measurements, which a drift of the machine affects alike."""

import shlex
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shared.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Flags that all kinds share."""

    rounds: int = 7
    """Rounds of interleaved measurements of everything that is compared: A B C A B C …"""
    seeds: int = 5
    """Trainings for each result of solve, with seeds 0, 1, 2, …"""
    max_seconds: float = 120.0
    """Time limit of a training; one that has not reached its target by then counts as never."""
    flags: str = ""
    """More flags for rl-hotswap train, as one word: --flags="--actors 1 --epochs 5"."""
    plots: Path | None = None
    """Draw the results as PNG files in this directory (matplotlib, from the extra bench)."""

    def __post_init__(self) -> None:
        for flag, value in (("--rounds", self.rounds), ("--seeds", self.seeds)):
            if value < 1:
                raise ConfigurationError(f"{flag} must be at least 1; found {value}")

    @property
    def training_flags(self) -> tuple[str, ...]:
        """Flags of every training, beside those that a benchmark sets."""
        return (f"--max-seconds={self.max_seconds}", *shlex.split(self.flags))


Name = TypeVar("Name", bound=Hashable)
Measurement = Callable[[], float]
Piece = Callable[[], int]
"""Continues a loop for a while and returns the number of environment steps that it took."""


def interleave(measurements: Mapping[Name, Measurement], rounds: int, *, warm_up: int = 0) -> dict[Name, list[float]]:
    """Call all measurements in order, A B C A B C …, and return their values; ``warm_up`` rounds are discarded."""
    values: dict[Name, list[float]] = {name: [] for name in measurements}
    for _ in range(warm_up + rounds):
        for name, measure in measurements.items():
            values[name].append(measure())
    return {name: found[warm_up:] for name, found in values.items()}


def ratios(values: Sequence[float], over: Sequence[float]) -> list[float]:
    """Divide each round's value by that of the same round in ``over``; drift between rounds cancels out."""
    return [value / other for value, other in zip(values, over, strict=True)]


def steps_per_s(run_piece: Piece, at_least_s: float) -> float:
    """Run pieces for ``at_least_s`` seconds and return environment steps per second."""
    began_s = time.perf_counter()
    steps = run_piece()
    while (took_s := time.perf_counter() - began_s) < at_least_s:
        steps += run_piece()
    return steps / took_s
