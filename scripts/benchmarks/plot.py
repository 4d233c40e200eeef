"""Plots of what was measured: lines over one quantity, as PNG."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from scripts.benchmarks.result import number

Scale = Literal["linear", "log"]

_SIZE_INCHES = (7.0, 4.2)
_DOTS_PER_INCH = 150
_MOST_MARKS = 8  # so few quantities are marked one by one


class Line(NamedTuple):
    """One line of a plot: its name in the legend, and its points in order. ``low`` and ``high`` shade a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def save_plot(
    path: Path,
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_scale: Scale = "log",
    y_scale: Scale = "log",
) -> None:
    """Draw ``lines`` into the PNG file ``path``, whose directory is made; without matplotlib do nothing at all."""
    if not can_plot():
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label, xscale=x_scale, yscale=y_scale)
    for line in lines:
        (drawn,) = axes.plot(line.x, line.y, marker="o", markersize=4, label=line.name)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    marks = sorted({x for line in lines for x in line.x})
    if len(marks) <= _MOST_MARKS:
        axes.set_xticks(marks, [number(mark) for mark in marks], minor=False)
        axes.set_xticks([], minor=True)
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
