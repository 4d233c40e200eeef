"""Ctrl-C and SIGTERM, so that an actor ends between two steps, not in the middle of sending a rollout."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

_TERMINATED = 128 + signal.SIGTERM


class StopSignal:
    """While it is entered, a signal raises (KeyboardInterrupt, or SystemExit with code 143 for SIGTERM) …

    … until ``gently`` has said how to stop instead: then only a second signal raises. With ``ignore_interrupt`` Ctrl-C
    is for the supervisor, which then stops this process.
    """

    def __init__(self, *, ignore_interrupt: bool = False) -> None:
        self.received: int | None = None
        self._ignore_interrupt = ignore_interrupt
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, object] = {}

    def gently(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` at the next signal instead of raising."""
        self._stop = stop

    @property
    def exit_code(self) -> int | None:
        """The conventional exit code of what was received: 130 or 143."""
        return None if self.received is None else 128 + self.received

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.getsignal(number)
            ignored = number == signal.SIGINT and self._ignore_interrupt
            signal.signal(number, signal.SIG_IGN if ignored else self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        first, self.received = self.received is None, number
        if first and self._stop is not None:
            self._stop()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(_TERMINATED)
