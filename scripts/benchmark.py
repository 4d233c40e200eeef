"""``python scripts/benchmark.py``: the figures in the README, measured on this machine."""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported: whatever is compared has one

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import active_children, get_context
from typing import Literal, cast, get_args

import tyro
from loguru import logger
from rich.console import Console

from scripts.benchmarks.plot import can_plot
from scripts.benchmarks.result import Result, show, write_json, write_markdown
from scripts.benchmarks.settings import BenchmarkSettings
from shared.process.command_line import run_command
from shared.process.log import set_up_logging

COMMAND = "python scripts/benchmark.py"
_WIDTH = 140  # where no terminal says another

# To add one: write scripts/benchmarks/NAME.py with measure_NAME(settings, console) -> list[Result], and put NAME here.
Kind = Literal["solve", "training", "acting", "reload", "publish", "scale"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(BenchmarkSettings):
    """Measure on this machine, and compare with what is to be reached and with others.

    Everything that is compared is measured in turn in the same run. Exit code 1: a row falls short.
    """

    what: tyro.conf.Positional[Literal[Kind, "all"]]
    """solve: how soon CartPole-v1 is solved, by the last 100 returns and by the first version that is good enough.
    training: steps per second learned from until CartPole-v1 is solved, beside Stable-Baselines3's.
    acting: environment steps per second of an agent, and of rollouts, over the environment alone and over others.
    reload: what replacing the policy costs the environment loop, and whether any action is torn by it.
    publish: how long it takes until a new version acts, and what publishing costs who publishes.
    scale: how these grow with model size, actors and versions; a plot each.
    all: each of these, in a process of its own."""
    json: Path | None = None
    """Write the rows there as well, as a list of objects."""
    markdown: Path | None = None
    """Write the table there as well, as README shows it."""


def main(options: BenchmarkOptions) -> int:
    """Measure, print the table, and return 0 if every target was reached and nothing failed, else 1."""
    console = _begin()
    if options.plots is not None and not can_plot():
        missing = 'nothing is plotted: matplotlib is not installed (pip install -e ".[bench]")'
        console.print(missing, highlight=False, markup=False)
    rows: list[Result] = []
    failed = False
    for kind in get_args(Kind) if options.what == "all" else (options.what,):
        if options.what == "all":
            found = measure_apart(kind, options, console)
            failed |= found is None
            rows += found or []
        else:
            rows += measure_of(kind)(options, console)
        _write(rows, options)
    show(rows, console)
    return 1 if failed or any(row.reached is False for row in rows) else 0


def measure_of(kind: Kind) -> Callable[[BenchmarkSettings, Console], list[Result]]:
    """What measures ``kind``. It is imported here: each needs libraries that the others do without."""
    module = import_module(f"scripts.benchmarks.{kind}")
    return cast(Callable[[BenchmarkSettings, Console], list[Result]], getattr(module, f"measure_{kind}"))


def measure_apart(kind: Kind, options: BenchmarkOptions, console: Console) -> list[Result] | None:
    """The rows of ``kind``, measured in a process of its own; None where it failed."""
    console.rule(kind, align="left")
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, kind, options).result()
        except KeyboardInterrupt:
            for process in active_children():  # it cleans up as well, and is waited for
                process.terminate()
            raise
        except Exception as error:  # noqa: BLE001 - whatever one kind raises, the others can be measured
            message = f"{kind} failed, going on with the others: {type(error).__name__}: {error}"
            logger.opt(exception=error).error(message)
            console.print(message, style="red", highlight=False, markup=False)
            return None


def _measure(kind: Kind, options: BenchmarkOptions) -> list[Result]:
    return measure_of(kind)(options, _begin())


def _begin() -> Console:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, and removes what was written
    set_up_logging("benchmark", None, terminal_level=None)
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH)


def _write(rows: list[Result], options: BenchmarkOptions) -> None:
    """After every kind, so that a run that is interrupted has not been for nothing."""
    if options.json is not None:
        write_json(rows, options.json)
    if options.markdown is not None:
        write_markdown(rows, options.markdown)


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, BenchmarkOptions, main))
