"""What a benchmark says: rows of a value beside its target, as a table and as JSON."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure: the median of several, how far they lie apart, what was to be reached, and how it was measured."""

    row: str
    value: float
    target: float | None
    reached: bool | None
    min: float
    max: float
    unit: str
    how: str

    @classmethod
    def of(cls, row: str, values: Sequence[float], unit: str, how: str, *, at_most: float | None = None) -> Self:
        """The row of several measurements of one thing, of which less is better."""
        value = float(np.median(values))
        reached = None if at_most is None else value <= at_most
        return cls(row, value, at_most, reached, float(np.min(values)), float(np.max(values)), unit, how)

    @property
    def verdict(self) -> str:
        """ "reached", or by how much it falls short."""
        if self.target is None:
            return ""
        return "reached" if self.reached else f"short by {abs(self.value - self.target):.3g} {self.unit}"


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


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(title=machine(), title_justify="left")
    for name in ("row", "median", "min", "max", "unit", "to reach", ""):
        table.add_column(name, justify="left" if name in ("row", "unit", "") else "right", no_wrap=True)
    for row in rows:
        target = "" if row.target is None else f"{row.target:,.4g}"
        table.add_row(row.row, f"{row.value:,.4g}", f"{row.min:,.4g}", f"{row.max:,.4g}", row.unit, target, row.verdict)
    console.print(table)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """A list of objects, one for each row."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1))
