"""The lines that the loader thread leaves for the agent to log from ``reset`` and ``adopt``."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

_MAX_REPORTS = 1000


class Report(NamedTuple):
    """A log level and a line."""

    level: str
    message: str


class Reports(deque[Report]):
    """The newest reports, oldest first. Any thread may add; the acting thread takes."""

    def __init__(self) -> None:
        super().__init__(maxlen=_MAX_REPORTS)

    def add(self, level: str, message: str) -> None:
        """Leave a line for the agent to log."""
        self.append(Report(level, message))

    def take(self) -> Iterator[Report]:
        """Remove the reports one by one."""
        while self:
            yield self.popleft()
