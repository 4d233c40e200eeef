"""The display of a training: a live table on a terminal, plain lines elsewhere."""

import time
from contextlib import AbstractContextManager
from typing import Protocol, Self

from rich.live import Live
from rich.table import Table

from rl_hotswap.launcher.supervisor import TrainingStatus
from rl_hotswap.launcher.terminal import Terminal
from shared.run.progress import Progress

_REDRAW_S = 0.25
_LINE_EVERY_S = 2.0
_COLUMNS = 4  # of three rows


class Display(AbstractContextManager["Display"], Protocol):
    """Shows the status of a training."""

    def show(self, status: TrainingStatus) -> None:
        """Draw ``status`` at a readable rate. Messages are printed at once and stay."""


def open_display(console: Terminal, title: str) -> Display:
    """Return a live table for a terminal, plain lines for anything else."""
    return LiveTable(console, title) if console.is_terminal else PlainLines(console)


def describe(status: TrainingStatus) -> list[tuple[str, str]]:
    """Return the displayed numbers with their names; a dash stands for a number that is not known yet."""
    progress = status.progress or Progress()
    return [
        ("steps", f"{progress.env_steps:,}"),
        ("steps/s", f"{progress.steps_per_s:,.0f}"),
        ("episodes", f"{progress.episodes:,}"),
        ("mean return", _number(progress.mean_return, ".1f")),
        ("version", _number(progress.version, "d")),
        ("lag", _number(progress.lag, ".1f")),
        ("reloads", f"{progress.reloads:,}"),
        ("rejected", f"{progress.rollouts.invalid:,}"),
        ("skipped", f"{progress.skipped_updates:,}"),
        ("actors", f"{status.actors_alive}/{status.actors}"),
        ("actor deaths", f"{status.actor_deaths:,}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class PlainLines(AbstractContextManager["PlainLines"]):
    """Prints one line every two seconds, for logs and pipes."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._next_s = 0.0
        self._last = ""

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: TrainingStatus) -> None:
        for message in status.messages:
            self._print(message)
        if status.progress is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _LINE_EVERY_S
        line = " | ".join(f"{name} {value}" for name, value in describe(status))
        if line != self._last:
            self._print(f"{status.progress.train_s:6.1f} s | {line}")
        self._last = line

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


class LiveTable:
    """Redraws one table in place, with messages above it."""

    def __init__(self, console: Terminal, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._next_s = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, status: TrainingStatus) -> None:
        for message in status.messages:
            self._live.console.print(message, style="yellow")
        if status.messages or time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _REDRAW_S
            self._live.update(_table(self._title, status), refresh=True)


def _table(title: str, status: TrainingStatus) -> Table:
    progress = status.progress
    # The learner reports nothing while it imports torch.
    phase, train_s = ("starting", 0.0) if progress is None else (progress.phase, progress.train_s)
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    cells = [*describe(status), (phase, f"{train_s:.1f} s")]
    for first in range(0, len(cells), _COLUMNS):
        row = cells[first : first + _COLUMNS]
        table.add_row(*(name for name, _ in row), style="dim")
        table.add_row(*(value for _, value in row), style="bold")
    for column in table.columns:
        column.justify, column.min_width = "right", 12
    return table
