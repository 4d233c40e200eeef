"""State of a whole process while it acts: signals, crash reports, and the switch interval."""

import faulthandler
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_SWITCH_INTERVAL_S = 1e-4
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 0.5  # programs such as timeout send every signal twice
_CLOSED = 0


class StopSignal:
    """A context in which the first signal ends the actor in order, and the second one ends the process at once.

    The first signal raises KeyboardInterrupt, or SystemExit with code 143 for SIGTERM; after ``call_instead`` it calls
    a function that ends the actor between two steps. The second one ends the process with 130 or 143, half a second
    after the first at the earliest. A thread does so: Python's handlers do not run while the main thread is in native
    code, such as a call of a program that hangs. With ``ignore_interrupt`` Ctrl-C is ignored: the supervisor handles it
    and then stops the actor.
    """

    def __init__(self, *, ignore_interrupt: bool = False) -> None:
        self.exit_code: int | None = None  # by convention 130 or 143 once a signal was received
        self._ignore_interrupt = ignore_interrupt
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, object] = {}

    def call_instead(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` at the first signal instead of raising."""
        self._stop = stop

    def __enter__(self) -> Self:
        for number in _STOP_SIGNALS:
            self._before[number] = signal.getsignal(number)
            ignored = number == signal.SIGINT and self._ignore_interrupt
            signal.signal(number, signal.SIG_IGN if ignored else self._on_signal)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=_end_at_second_signal, args=(self._reader,), name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._writer, bytes([_CLOSED]))
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.exit_code is not None:
            return
        self.exit_code = 128 + number
        if self._stop is not None:
            self._stop()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(self.exit_code)


def _end_at_second_signal(reader: int) -> None:
    """Read the numbers of signals, which Python's handler in C writes at once, until ``_CLOSED``."""
    end_s = math.inf
    received: list[int] = []
    while True:
        left_s = max(0.0, end_s - time.monotonic()) if len(received) > 1 else None
        if not select.select([reader], [], [], left_s)[0]:
            os._exit(128 + received[1])
        number = os.read(reader, 1)[0]
        if number == _CLOSED:
            return
        if number in _STOP_SIGNALS:
            end_s = min(end_s, time.monotonic() + _GRACE_S)
            received.append(number)


@contextmanager
def crash_reports(descriptor: int | None) -> Iterator[None]:
    """Let ``faulthandler`` report a crash to ``descriptor`` until the end of the block, unless it reports elsewhere."""
    if descriptor is None or faulthandler.is_enabled():
        yield
        return
    faulthandler.enable(descriptor)
    try:
        yield
    finally:
        faulthandler.disable()


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let the loader thread wait at most 0.1 ms for the GIL instead of 5 ms, until the end of the block."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(_SWITCH_INTERVAL_S, before_s))
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
