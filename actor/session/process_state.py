"""State of a whole process while it acts: its signal handlers and its switch interval."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_SWITCH_INTERVAL_S = 1e-4


class StopSignal:
    """A context in which a signal raises KeyboardInterrupt, or SystemExit with code 143 for SIGTERM.

    After ``call_instead`` the first signal calls a function that ends the actor between two steps; only a second one
    raises. With ``ignore_interrupt`` Ctrl-C is ignored: the supervisor handles it and then stops the actor.
    """

    def __init__(self, *, ignore_interrupt: bool = False) -> None:
        self.exit_code: int | None = None  # by convention 130 or 143 once a signal was received
        self._ignore_interrupt = ignore_interrupt
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, object] = {}

    def call_instead(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` at the next signal instead of raising."""
        self._stop = stop

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
        first, self.exit_code = self.exit_code is None, 128 + number
        if first and self._stop is not None:
            self._stop()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(self.exit_code)


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let the loader thread wait at most 0.1 ms for the GIL instead of 5 ms, until the end of the block."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(_SWITCH_INTERVAL_S, before_s))
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
