"""Results of benchmarks: values beside their targets, as a table, as JSON and as Markdown."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_JSON_KEYS = {"row": "name"} | {key: key for key in ("value", "target", "reached", "min", "max", "unit", "how")}


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured quantity: the median of several values, their range, a target, and how it was measured.

    ``note`` is printed beside the status, for example the spread of a control measurement.
    """

    name: str
    value: float
    target: float | None
    reached: bool | None
    min: float
    max: float
    unit: str
    how: str
    bound: str = "<="
    note: str = ""

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
    return f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
