"""``python scripts/benchmark.py``: the measured results in the documentation, measured on this machine."""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported: one thread for everything

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import active_children, get_context
from typing import Literal, cast, get_args

import tyro
from loguru import logger
from rich.console import Console

from scripts.benchmarks.common.result import Result, is_installed, show, write_json, write_markdown
from scripts.benchmarks.common.rounds import BenchmarkSettings
from shared.process.command_line import run_command
from shared.process.log import set_up_logging

COMMAND = "python scripts/benchmark.py"
_WIDTH = 140  # columns, unless a terminal has others

# To add one: write measure_NAME(settings, console) -> list[Result] below scripts/benchmarks, and add NAME here.
Kind = Literal["solve", "training", "acting", "reload", "publish", "scale"]
_MODULES: dict[Kind, str] = {
    "solve": "training",
    "training": "training",
    "acting": "acting.acting_speed",
    "reload": "reload.reload",
    "publish": "publish",
    "scale": "scale",
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(BenchmarkSettings):
    """Measure on this machine, and compare with targets and with other libraries.

    Exit code 1: a target was missed, or a kind failed.
    """

    what: tyro.conf.Positional[Literal[Kind, "all"]]
    """solve: time until CartPole-v1 is solved, by the last 100 returns and by the first good version.
    training: steps learned from per second until CartPole-v1 is solved, beside Stable-Baselines3.
    acting: environment steps per second of an agent, and of rollouts, over the environment alone and other libraries.
    reload: cost of replacing the policy for the environment loop, with and without the prefetcher; action integrity.
    publish: time until a new version acts, and cost of publishing for the learner.
    scale: growth of these with model size, actors and versions, with plots.
    all: each of these in its own process."""
    json: Path | None = None
    """Write the results to this file, as a list of objects."""
    markdown: Path | None = None
    """Write the results to this file, as a Markdown table."""


def main(options: BenchmarkOptions) -> int:
    """Measure, print the table, and return 0 if every target was reached and no kind failed, else 1."""
    console = _begin()
    if options.plots is not None:
        is_installed("matplotlib", "no plots", console)
    results: list[Result] = []
    failed = False
    for kind in get_args(Kind) if options.what == "all" else (options.what,):
        if options.what == "all":
            found = measure_in_process(kind, options, console)
            failed |= found is None
            results += found or []
        else:
            results += measure_of(kind)(options, console)
        if options.json is not None:  # after every kind, so that an interrupted run keeps its results
            write_json(results, options.json)
        if options.markdown is not None:
            write_markdown(results, options.markdown)
    show(results, console)
    return 1 if failed or any(result.reached is False for result in results) else 0


def measure_of(kind: Kind) -> Callable[[BenchmarkSettings, Console], list[Result]]:
    """Import and return the function that measures ``kind``; each needs libraries that the others do not."""
    module = import_module(f"scripts.benchmarks.{_MODULES[kind]}")
    return cast(Callable[[BenchmarkSettings, Console], list[Result]], getattr(module, f"measure_{kind}"))


def measure_in_process(kind: Kind, options: BenchmarkOptions, console: Console) -> list[Result] | None:
    """Measure ``kind`` in its own process and return the results, or None if that failed."""
    console.rule(kind, align="left")
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, kind, options).result()
        except KeyboardInterrupt:
            for process in active_children():  # the pool waits for it to clean up
                process.terminate()
            raise
        except Exception as error:  # noqa: BLE001 - the other kinds can be measured after any error
            message = f"{kind} failed, continuing with the others: {type(error).__name__}: {error}"
            logger.opt(exception=error).error(message)
            console.print(message, style="red", highlight=False, markup=False)
            return None


def _measure(kind: Kind, options: BenchmarkOptions) -> list[Result]:
    return measure_of(kind)(options, _begin())


def _begin() -> Console:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends helper processes and removes temporary files
    set_up_logging("benchmark", None, terminal_level=None)
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH)


if __name__ == "__main__":
    sys.exit(run_command(COMMAND, BenchmarkOptions, main))
