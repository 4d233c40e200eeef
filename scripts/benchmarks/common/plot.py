"""Line plots of results, as PNG files."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.common.result import number

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


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def save_plot(path: Path, lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> None:
    """Draw ``lines`` with logarithmic axes into the PNG file ``path`` and create its directory.

    Do nothing without matplotlib.
    """
    if not can_plot():
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
