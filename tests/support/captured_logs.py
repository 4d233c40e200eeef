"""The log as tests see it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record


class _TerminalLog:
    """The sink of all tests, on the stderr of the moment at which it is put in place of every other one."""

    is_used = False

    def use(self) -> None:
        logger.remove()
        logger.configure(patcher=None)
        self._stream, self.is_used = sys.stderr, True
        logger.add(self)

    def write(self, line: str) -> None:
        self._stream.write(line)

    def stop(self) -> None:
        """Note that the sink is removed; loguru calls it."""
        self.is_used = False


terminal_log = _TerminalLog()


@dataclass
class CapturedLogs:
    """Records since the test began, from every level; ``clear`` forgets them."""

    records: "list[Record]" = field(default_factory=list)

    def messages(self, level: str = "TRACE") -> list[str]:
        """Return the messages of ``level`` and above, oldest first."""
        least = logger.level(level).no
        return [record["message"] for record in self.records if record["level"].no >= least]

    @property
    def lines(self) -> list[str]:
        """The log as a person reads it: ``LEVEL | name:function - message``."""
        return [f"{r['level'].name} | {r['name']}:{r['function']} - {r['message']}" for r in self.records]

    def lines_with(self, text: str) -> list[str]:
        """Return the lines that contain ``text``."""
        return [line for line in self.lines if text in line]

    def has(self, *texts: str) -> bool:
        """Return True if one message contains all ``texts``."""
        return any(all(text in message for text in texts) for message in self.messages())

    def clear(self) -> None:
        """Forget all records."""
        self.records.clear()


@contextmanager
def capture_logs() -> Iterator[CapturedLogs]:
    """Capture the log of this process until the context ends."""
    captured = CapturedLogs()

    def keep(message: "Message") -> None:
        captured.records.append(message.record)

    sink = logger.add(keep, level="TRACE")
    try:
        yield captured
    finally:
        logger.remove(sink)
