"""Waiting in tests: for a condition, never for an amount of time."""

import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 20.0


def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Ask again and again until ``condition`` gives something true, which is returned."""
    deadline_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"still not so after {patience_s} s: {condition}"
        time.sleep(0.002)
    return found


class Running:
    """A function on a thread of its own, whose result or exception ``join`` gives."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._outcome: list[Any] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._outcome.append(function(*arguments))
        except BaseException as error:  # noqa: BLE001  handed to whoever joins
            self._error.append(error)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self, patience_s: float = PATIENCE_S) -> Any:
        """Return what the function returned, or raise what it raised, once it has ended."""
        self._thread.join(patience_s)
        assert self.done, f"the thread did not end within {patience_s} s"
        if self._error:
            raise self._error[0]
        return self._outcome[0]
