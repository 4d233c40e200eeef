"""What a benchmark says: rows of a value beside its target, as a table, as JSON and as Markdown."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import msgspec
import numpy as np
from msgspec.structs import replace
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_IN_JSON = ("row", "value", "target", "reached", "min", "max", "unit", "how")


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure: the median of several, how far they lie apart, what was to be reached, and how it was measured."""

    row: str
    value: float
    target: float | None
    reached: bool | None
    min: float
    max: float
    unit: str
    how: str
    bound: Literal["<=", ">="] = "<="

    @classmethod
    def of(
        cls,
        row: str,
        values: Sequence[float],
        unit: str,
        how: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Self:
        """The row of several measurements of one thing. It has one target at most; without one it gives context."""
        assert at_most is None or at_least is None
        value = float(np.median(values))
        found = cls(row, value, None, None, float(np.min(values)), float(np.max(values)), unit, how)
        if at_most is not None:
            return replace(found, target=at_most, bound="<=", reached=value <= at_most)
        if at_least is not None:
            return replace(found, target=at_least, bound=">=", reached=value >= at_least)
        return found

    @property
    def measured(self) -> str:
        """The median with its unit."""
        return f"{number(self.value)} {self.unit}".strip()

    @property
    def spread(self) -> str:
        """From the least to the most that was measured."""
        return f"{number(self.min)} to {number(self.max)}"

    @property
    def to_reach(self) -> str:
        """The target with its direction; empty where there is none."""
        return "" if self.target is None else f"{self.bound} {number(self.target)}"

    @property
    def invariants(self) -> str:
        """ "reached", or by how much it falls short."""
        if self.target is None:
            return ""
        return "reached" if self.reached else f"short by {number(abs(self.value - self.target))}"


def number(value: float) -> str:
    """Short, with the digits that count: 1.23, 123, 1,234, 12.3k, 1.23M."""
    size = abs(value)
    if size >= 1e6 and size != float("inf"):
        return f"{value / 1e6:.3g}M"
    if 1e4 <= size < 1e6:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if 100 <= size < 1e4 else f"{value:.3g}"


def machine() -> str:
    """Where the figures come from, in a line."""
    return f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(rows: Sequence[Result], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(title=machine(), title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("row")  # the only one that may need two lines
    for name in ("median", "min to max", "to reach"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(row.row, row.measured, row.spread, row.to_reach, row.invariants)
    console.print(table)


def write_json(rows: Sequence[Result], path: Path) -> None:
    """A list of objects, one for each row: what it says, and not how it is shown."""
    objects = [{name: getattr(row, name) for name in _IN_JSON} for row in rows]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(objects), indent=1))


def write_markdown(rows: Sequence[Result], path: Path) -> None:
    """The table as README shows it, under a line that names the machine."""
    lines = [
        f"Measured on {machine()}.",
        "",
        "| what | to reach | median (min to max) | |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (row.row, row.to_reach, f"{row.measured} ({row.spread})", row.invariants)
        lines.append("".join(f"| {cell} " for cell in (cell.replace("|", r"\|") for cell in cells)) + "|")
    path.write_text("\n".join(lines) + "\n")
