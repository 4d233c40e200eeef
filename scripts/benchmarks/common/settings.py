"""Settings that all benchmarks share."""

import shlex
from dataclasses import dataclass
from pathlib import Path

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
