"""Logging of errors that repeat: the first, ever fewer of the following, and the recovery."""

import time

from loguru import logger


class ErrorThrottle:
    """Logs the consecutive failures of an operation that training does not depend on. For use by one thread."""

    def __init__(self, operation: str) -> None:
        """``operation`` begins each log line: "publishing" gives "publishing fails: ..."."""
        self._operation = operation
        self._failures = 0
        self._began_s = 0.0

    def failed(self, error: Exception, consequence: str) -> None:
        """Count a failure. Log it with its ``consequence`` if the number in a row is a power of two."""
        if not self._failures:
            self._began_s = time.monotonic()
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            count = f" failures={self._failures}" if self._failures > 1 else ""
            logger.opt(depth=1).error(
                "{} fails{}: {}: {}; {}", self._operation, count, type(error).__name__, error, consequence
            )

    def worked(self) -> None:
        """Reset the count. Log the recovery, as a warning so that every reader of the error sees it."""
        if self._failures:
            logger.opt(depth=1).warning(
                "{} works again failures={} outage_s={:.1f}",
                self._operation,
                self._failures,
                time.monotonic() - self._began_s,
            )
        self._failures = 0
