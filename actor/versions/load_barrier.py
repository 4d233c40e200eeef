"""A barrier that lets a short load finish before the acting thread goes on.

Two threads that contend for the GIL hand it over at each file operation: the loader waits for each turn, and the
acting thread stops briefly, some twenty times for one small version. Letting the load finish costs both far less.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 5e-3
"""The longest wait. A small network with a known program loads in 1 or 2 ms."""
_RETRY_AFTER_S = 1.0


class LoadBarrier:
    """The loader thread marks its loads; the acting thread waits for them, in vain at most once a second."""

    def __init__(self) -> None:
        self.is_loading = False
        self._finished = threading.Event()
        self._in_vain_at_s = -math.inf

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Mark one load on the loader thread."""
        self._finished.clear()
        self.is_loading = True
        try:
            yield
        finally:
            self.is_loading = False
            self._finished.set()

    def wait_briefly(self) -> None:
        """Wait for the load that is under way, on the acting thread between two steps, for ``PATIENCE_S`` at most."""
        if time.monotonic() - self._in_vain_at_s < _RETRY_AFTER_S:
            return  # the load that is under way takes longer than a step should wait
        if not self._finished.wait(PATIENCE_S):
            self._in_vain_at_s = time.monotonic()
