"""What fails for a while is told when it begins and when it is over, not at every attempt."""

import time

from loguru import logger


class ErrorThrottle:
    """The failures in a row of one thing that training goes on without, such as a store whose disk is full.

    It belongs to one thread.
    """

    def __init__(self, what: str) -> None:
        """``what`` begins the sentences: "publishing" fails, and works again."""
        self._what = what
        self._failures = 0
        self._began_s = 0.0

    def failed(self, error: Exception, meanwhile: str) -> None:
        """It failed; ``meanwhile`` says what becomes of that. Logged at every power of two of failures in a row."""
        if not self._failures:
            self._began_s = time.monotonic()
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            again = f" ({self._failures} times in a row)" if self._failures > 1 else ""
            logger.opt(depth=1).error(
                "{} fails{}: {}: {}; {}", self._what, again, type(error).__name__, error, meanwhile
            )

    def worked(self) -> None:
        """It worked. Logged where it failed before, as a warning: whoever was told of the failure sees this too."""
        if self._failures:
            logger.opt(depth=1).warning(
                "{} works again: it failed {} times, for {:.1f} s",
                self._what,
                self._failures,
                time.monotonic() - self._began_s,
            )
        self._failures = 0
