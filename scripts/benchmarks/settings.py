"""What every benchmark is given."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """The flags that all kinds share."""

    rounds: int = 7
    """How often each of several things that are compared is measured, in turn: A B C A B C …"""
    seeds: int = 5
    """Trainings for each figure of solve, with seeds 0, 1, 2, …"""
    max_seconds: float = 120.0
    """A training that has not reached its target after this long counts as never."""
    flags: str = ""
    """Further flags for scripts/train.py, as one word: --flags="--actors 1 --epochs 5"."""
    plots: Path | None = None
    """Draw the results as PNG files in this directory (matplotlib, from the extra bench)."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigurationError(f"--rounds is at least 1; found {self.rounds}")
        if self.seeds < 1:
            raise ConfigurationError(f"--seeds is at least 1; found {self.seeds}")

    @property
    def training_flags(self) -> tuple[str, ...]:
        """What trainings are given beside what the benchmark itself decides."""
        return (f"--max-seconds={self.max_seconds}", *shlex.split(self.flags))
