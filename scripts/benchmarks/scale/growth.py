"""Times in milliseconds by size, as results and as the lines of a plot."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scripts.benchmarks.common.plot import Line
from scripts.benchmarks.common.result import Result


class Budget:
    """A time budget for ascending sizes. The time of a size is predicted from that of the size before."""

    def __init__(self, seconds: float) -> None:
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + seconds

    def lack(self, factor: float) -> str | None:
        """Return the reason to omit a size ``factor`` times the last one, or None. Call it before each size."""
        now_s = time.monotonic()
        expected_s, left_s = factor * (now_s - self._began_s), self._deadline_s - now_s
        self._began_s = now_s
        return None if expected_s <= left_s else f"{left_s:.0f} s left, expected time {expected_s:.0f} s"


@dataclass
class Growth:
    """Measurements by the name of a line and the size on the horizontal axis, in order."""

    title: str
    x_label: str
    how: str
    times_ms: dict[str, dict[float, list[float]]] = field(default_factory=dict)

    def add(self, line: str, size: float, times_ms: Sequence[float]) -> None:
        self.times_ms.setdefault(line, {})[size] = list(times_ms)

    def results(self) -> list[Result]:
        return [
            Result.of(f"{line}, {_short(size)} {self.x_label}", times_ms, "ms", self.how)
            for line, points in self.times_ms.items()
            for size, times_ms in points.items()
        ]

    def lines(self) -> list[Line]:
        """Return lines of medians, with a band from the minimum to the maximum."""
        return [
            Line(
                line,
                list(points),
                [float(np.median(times_ms)) for times_ms in points.values()],
                [min(times_ms) for times_ms in points.values()],
                [max(times_ms) for times_ms in points.values()],
            )
            for line, points in self.times_ms.items()
        ]


def _short(size: float) -> str:
    return f"{size:,.3g}" if size < 100 else f"{size:,.0f}"
