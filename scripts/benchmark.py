"""``python scripts/benchmark.py``: the figures in the README, measured on this machine."""

import shlex
import sys
from pathlib import Path

if __name__ == "__main__":  # started as a file, so the path begins with scripts/: it has to begin with the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.append(str(Path.cwd()))

from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console

from scripts.benchmarks.row import show, write_json
from shared.command_line import run_command
from shared.errors import ConfigurationError
from shared.log import set_up_logging

COMMAND = "python scripts/benchmark.py"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Measure on this machine, and compare with what is to be reached."""

    what: tyro.conf.Positional[Literal["solve"]]
    """solve: how soon CartPole-v1 is solved, by the last 100 returns and by the first version that is good enough."""
    seeds: int = 5
    """Trainings for each figure, with seeds 0, 1, 2, …"""
    max_seconds: float = 120.0
    """A training that has not reached its target after this long counts as never."""
    flags: str = ""
    """Further flags for scripts/train.py, as one word: --flags="--actors 1 --epochs 5"."""
    json: Path | None = None
    """Write the rows there as well, as a list of objects."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigurationError(f"--seeds is at least 1; found {self.seeds}")


def main(options: BenchmarkOptions) -> int:
    """Measure, print the table, and return 0 if every target was reached, else 1."""
    from scripts.benchmarks.solving import measure_solving

    set_up_logging("benchmark", None, terminal_level=None)
    console = Console(soft_wrap=True)
    flags = (f"--max-seconds={options.max_seconds}", *shlex.split(options.flags))
    rows = measure_solving("CartPole-v1", 475.0, range(options.seeds), flags, console)
    show(rows, console)
    if options.json is not None:
        write_json(rows, options.json)
    return 0 if all(row.reached in (None, True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, BenchmarkOptions, main))
