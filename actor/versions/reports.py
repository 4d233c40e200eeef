"""The lines that the loader thread leaves for the agent to log from ``reset`` and ``adopt``."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from shared.errors import one_line

_AGAIN_S = 600.0
_MOST_CHARACTERS = 300


class Report(NamedTuple):
    """A log level and a line."""

    level: str
    message: str


class Reports(deque[Report]):
    """The newest thousand reports, oldest first. Any thread may add; the acting thread takes."""

    def __init__(self) -> None:
        super().__init__(maxlen=1000)

    def add(self, level: str, message: str) -> None:
        """Leave a line for the agent to log."""
        self.append(Report(level, message))


def is_interrupt(error: BaseException) -> bool:
    """Return True if ``error`` is to end this program. On other threads, ``SystemExit`` would only end the thread."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


class Attempts:
    """Runs the phases of the loader, none of which may end it. Each kind of failure is reported once in ten minutes."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._failures: dict[tuple[str, type[BaseException]], tuple[int, float]] = {}

    def run(self, phase: str, action: Callable[[], object]) -> bool:
        """Call ``action``. Return False if it raised, after a report that names the phase."""
        try:
            action()
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._failed(phase, error)
            return False
        return True

    def _failed(self, phase: str, error: BaseException) -> None:
        """Count a failure, and report it unless one of its type and phase was reported lately."""
        count, reported_at_s = self._failures.get((phase, type(error)), (0, -math.inf))
        count, now_s = count + 1, time.monotonic()
        if now_s - reported_at_s >= _AGAIN_S:
            reported_at_s = now_s
            reason = f"{type(error).__name__}: {one_line(error)}"[:_MOST_CHARACTERS]
            self._reports.add("ERROR", f"policy loader failed phase={phase} failures={count} error={reason}")
        self._failures[phase, type(error)] = count, reported_at_s
