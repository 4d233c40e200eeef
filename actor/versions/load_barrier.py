"""Who goes first where the acting thread and the loader's want Python's lock at once.

They would share it a file operation at a time: the loader waits for each of its turns, and who acts is stopped for a
moment, some twenty times for one small version. Letting the loader finish costs both far less.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 5e-3
"""The longest that a step is held up. With a program that is here already, a small network's load takes 1 or 2 ms."""
_REST_S = 1.0


class LoadBarrier:
    """The loader's thread says when it loads, and the acting thread lets it finish; in vain at most once a second."""

    def __init__(self) -> None:
        self.is_loading = False
        self._finished = threading.Event()
        self._in_vain_s = float("-inf")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around one load, on the loader's thread."""
        self._finished.clear()
        self.is_loading = True
        try:
            yield
        finally:
            self.is_loading = False
            self._finished.set()

    def wait_briefly(self) -> None:
        """On the acting thread, between two steps: wait for a load that is under way, but not for long."""
        if time.monotonic() - self._in_vain_s < _REST_S:
            return  # what loads now takes longer than a step should wait for
        if not self._finished.wait(PATIENCE_S):
            self._in_vain_s = time.monotonic()
