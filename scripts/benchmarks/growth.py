"""Times in milliseconds, several for each size of something: as rows and as the lines of a plot."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scripts.benchmarks.plot import Line
from scripts.benchmarks.result import Result


class Budget:
    """Seconds for sizes that ascend: whether there is time for the next one, judged by the one before."""

    def __init__(self, seconds: float) -> None:
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + seconds

    def lack(self, factor: float) -> str | None:
        """Why what is ``factor`` times as large is left out; None where there is time for it. Called before each."""
        now_s = time.monotonic()
        expected_s, left_s = factor * (now_s - self._began_s), self._deadline_s - now_s
        self._began_s = now_s
        return (
            None if expected_s <= left_s else f"about {expected_s:.0f} s would be needed, and {left_s:.0f} s are left"
        )


@dataclass
class Growth:
    """What was measured, by the name of each line and then by the size on the horizontal axis, in order."""

    title: str
    x_label: str
    how: str
    times_ms: dict[str, dict[float, list[float]]] = field(default_factory=dict)

    def add(self, line: str, size: float, times_ms: Sequence[float]) -> None:
        """Several measurements of one point."""
        self.times_ms.setdefault(line, {})[size] = list(times_ms)

    def rows(self) -> list[Result]:
        """One for each point."""
        return [
            Result.of(f"{line}, {_short(size)} {self.x_label}", times_ms, "ms", self.how)
            for line, points in self.times_ms.items()
            for size, times_ms in points.items()
        ]

    def lines(self) -> list[Line]:
        """Medians, with a band from the least to the most."""
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
