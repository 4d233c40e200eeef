"""An event that other processes can set too: a byte in a pipe."""

import math
import os
import select
from contextlib import suppress

_READ_BYTES = 2**16


class WakeUp:
    """Set by anybody, waited for by one thread. A process that is given ``descriptor`` sets it with ``wake``."""

    _reading = descriptor = -1  # until there is a pipe: a signal may end this program before

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
        """Have whoever waits go on, or not begin to wait."""
        wake(self.descriptor)

    def register(self, descriptor: int) -> None:
        """Have ``wait`` return when this is readable too. It is the waiting thread that calls this and ``ignore``."""
        self._poll.register(descriptor, select.POLLIN)

    def ignore(self, descriptor: int) -> None:
        """No more of ``descriptor``."""
        self._poll.unregister(descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Return once it is set, after ``timeout_s`` at the latest; whether it is, or what it heeds is readable."""
        return bool(self._poll.poll(math.ceil(max(timeout_s, 0.0) * 1e3)))

    def clear(self) -> None:
        """Forget that it was set, however often."""
        with suppress(BlockingIOError):
            while len(os.read(self._reading, _READ_BYTES)) == _READ_BYTES:
                pass


def wake(descriptor: int) -> None:
    """Set the WakeUp whose ``descriptor`` this is; one that was set many times already stays as it is."""
    with suppress(BlockingIOError):
        os.write(descriptor, b"\0")
