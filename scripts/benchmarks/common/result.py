"""Results of benchmarks: values beside their targets, as a table, as JSON, as Markdown and as line plots."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_JSON_KEYS = {"row": "name"} | {key: key for key in ("value", "target", "reached", "min", "max", "unit", "how")}


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured quantity: the median of several values, their range, a target, and how it was measured."""

    name: str
    value: float
    target: float | None
    reached: bool | None
    min: float
    max: float
    unit: str
    how: str
    bound: str = "<="
    note: str = ""  # printed beside the status

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[float],
        unit: str,
        how: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Self:
        """Return the result of several measurements of one quantity; without a target it gives context."""
        assert at_most is None or at_least is None
        value = float(np.median(values))
        target, bound = (at_most, "<=") if at_least is None else (at_least, ">=")
        reached = None if target is None else value <= target if bound == "<=" else value >= target
        return cls(name, value, target, reached, float(np.min(values)), float(np.max(values)), unit, how, bound)

    @property
    def measured(self) -> str:
        return f"{number(self.value)} {self.unit}".strip()

    @property
    def spread(self) -> str:
        return f"{number(self.min)} to {number(self.max)}"

    @property
    def to_reach(self) -> str:
        """The target with its direction; empty without one."""
        return "" if self.target is None else f"{self.bound} {number(self.target)}"

    @property
    def status(self) -> str:
        """``reached``, or the distance to the target; then the note."""
        status = ""
        if self.target is not None:
            status = "reached" if self.reached else f"missed by {number(abs(self.value - self.target))}"
        return "; ".join(filter(None, (status, self.note)))


def number(value: float) -> str:
    """Format a number with its significant digits: 1.23, 123, 1,234, 12.3k, 1.23M."""
    size = abs(value)
    if size >= 1e6 and size != float("inf"):
        return f"{value / 1e6:.3g}M"
    if 1e4 <= size < 1e6:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if 100 <= size < 1e4 else f"{value:.3g}"


def machine() -> str:
    """Return a line that describes this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    processor = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores, {processor}, {platform.system()}, Python {platform.python_version()}"


def show(results: Sequence[Result], console: Console) -> None:
    table = Table(title=machine(), title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("result")
    for name in ("median", "min to max", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status")
    for result in results:
        table.add_row(result.name, result.measured, result.spread, result.to_reach, result.status)
    console.print(table)


def write_json(results: Sequence[Result], path: Path) -> None:
    """Write a list of objects, one for each result. The key ``row`` holds the name."""
    objects = [{key: getattr(result, name) for key, name in _JSON_KEYS.items()} for result in results]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(objects), indent=1))


def write_markdown(results: Sequence[Result], path: Path) -> None:
    """Write a Markdown table below a line that describes the machine."""
    lines = [f"Measured on {machine()}.", "", "| result | target | median (min to max) | status |", "|" + " --- |" * 4]
    for result in results:
        cells = (result.name, result.to_reach, f"{result.measured} ({result.spread})", result.status)
        lines.append("".join(f"| {cell} " for cell in (cell.replace("|", r"\|") for cell in cells)) + "|")
    path.write_text("\n".join(lines) + "\n")


_SIZE_INCHES = (7.0, 4.2)
_DOTS_PER_INCH = 150
_MOST_TICKS = 8  # up to this many x values, each gets its own tick


class Line(NamedTuple):
    """One line of a plot: its name in the legend and its points in order. ``low`` and ``high`` shade a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def is_installed(library: str, otherwise: str, console: Console) -> bool:
    """Return True when ``library`` is installed; print a line with the consequence ``otherwise`` if not."""
    if find_spec(library) is not None:
        return True
    message = f'{otherwise}: {library} is not installed (pip install -e ".[bench]")'
    console.print(message, highlight=False, markup=False)
    return False


def save_plot(path: Path, lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> None:
    """Draw ``lines`` with logarithmic axes into the PNG file ``path``, if matplotlib is installed."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    for line in lines:
        (drawn,) = axes.plot(line.x, line.y, marker="o", markersize=4, label=line.name)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    ticks = sorted({x for line in lines for x in line.x})
    if len(ticks) <= _MOST_TICKS:
        axes.set_xticks(ticks, [number(tick) for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
