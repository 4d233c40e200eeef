"""How a training shows itself: a live table on a terminal, plain lines everywhere else."""

import time
from contextlib import AbstractContextManager
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rl_hotswap.launcher.supervisor import Standing
from shared.run.progress import Progress

_REDRAW_S = 0.25
_LINE_EVERY_S = 2.0
_COLUMNS = 5  # fit into 80 characters


class Display(AbstractContextManager["Display"], Protocol):
    """Shown to a person while the training runs."""

    def show(self, standing: Standing) -> None:
        """Called often; draws as often as a person can read. Messages are printed at once, and stay."""
        ...


def open_display(console: Console, title: str) -> Display:
    """The live table where ``console`` is a terminal, else plain lines."""
    return LiveTable(console, title) if console.is_terminal else PlainLines(console)


def describe(standing: Standing) -> list[tuple[str, str]]:
    """Every number that is shown, with its name. Before the first report they are dashes."""
    progress = standing.progress or Progress()
    return [
        ("steps", f"{progress.env_steps:,}"),
        ("steps/s", f"{progress.steps_per_s:,.0f}"),
        ("episodes", f"{progress.episodes:,}"),
        ("mean return", _number(progress.mean_return, ".1f")),
        ("version", _number(progress.version, "d")),
        ("lag", _number(progress.lag, ".1f")),
        ("reloads", f"{progress.reloads:,}"),
        ("actors", f"{standing.actors_alive}/{standing.actors}"),
        ("actor deaths", f"{standing.actor_deaths:,}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


class PlainLines:
    """A line every two seconds, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, standing: Standing) -> None:
        for message in standing.messages:
            self._print(message)
        if standing.progress is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _LINE_EVERY_S
        line = " | ".join(f"{name} {value}" for name, value in describe(standing))
        if line != self._last:
            self._print(f"{standing.progress.train_s:6.1f} s | {line}")
        self._last = line

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveTable:
    """One table that is drawn again in place; messages stay above it."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._next_s = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, standing: Standing) -> None:
        for message in standing.messages:
            self._live.console.print(message, style="yellow", markup=False, highlight=False)
        if standing.messages or time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _REDRAW_S
            self._live.update(_table(self._title, standing), refresh=True)


def _table(title: str, standing: Standing) -> Table:
    progress = standing.progress
    # A learner that imports torch says nothing for seconds: better to say so than to show nothing but dashes.
    phase, train_s = ("starting", 0.0) if progress is None else (progress.phase, progress.train_s)
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    cells = [*describe(standing), (phase, f"{train_s:.1f} s")]
    for first in range(0, len(cells), _COLUMNS):
        row = cells[first : first + _COLUMNS]
        table.add_row(*(name for name, _ in row), style="dim")
        table.add_row(*(value for _, value in row), style="bold")
    for column in table.columns:
        column.justify, column.min_width = "right", 12
    return table
