"""An event that other processes can set too: a byte in a pipe."""

import math
import os
import select
from contextlib import suppress

_READ_BYTES = 2**16


class WakeUp:
    """An event that any thread can set and one thread waits for; another process sets it by ``wake(descriptor)``."""

    _reading = descriptor = -1  # for __del__, if a signal ends the program before there is a pipe

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self.descriptor, False)
        self._poll = select.poll()
        self._poll.register(self._reading, select.POLLIN)

    def __del__(self) -> None:
        for descriptor in (self._reading, self.descriptor):
            with suppress(OSError):
                os.close(descriptor)

    def set(self) -> None:
        """End the current wait, or the next one."""
        wake(self.descriptor)

    def register(self, descriptor: int) -> None:
        """Let ``wait`` return when ``descriptor`` is readable too. Only the waiting thread may call this."""
        self._poll.register(descriptor, select.POLLIN)

    def unregister(self, descriptor: int) -> None:
        """Undo ``register``. Only the waiting thread may call this."""
        self._poll.unregister(descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Wait for at most ``timeout_s``; return True when it is set or a registered descriptor is readable."""
        return bool(self._poll.poll(math.ceil(max(timeout_s, 0.0) * 1e3)))

    def clear(self) -> None:
        """Reset it, however often it was set."""
        with suppress(BlockingIOError):
            while len(os.read(self._reading, _READ_BYTES)) == _READ_BYTES:
                pass


def wake(descriptor: int) -> None:
    """Set the WakeUp with this ``descriptor``. A full pipe is set already."""
    with suppress(BlockingIOError):
        os.write(descriptor, b"\0")
