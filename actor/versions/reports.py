"""The lines that the loader thread leaves for the agent to log from ``reset`` and ``adopt``."""

from collections import deque
from typing import NamedTuple


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
