"""Warnings about faults of peers, whose number stays small however many faults occur."""

from collections import Counter
from collections.abc import Hashable

from loguru import logger

_PEERS_KEPT = 1000


class RateLimitedWarnings:
    """Log the first, second, fourth, eighth … fault of each peer."""

    def __init__(self) -> None:
        self._faults: Counter[Hashable] = Counter()

    def warn(self, peer: Hashable, message: str) -> None:
        """Count a fault of ``peer`` and log ``message`` if it is due."""
        if len(self._faults) > _PEERS_KEPT:
            self._faults.clear()
        self._faults[peer] += 1
        count = self._faults[peer]
        if count & (count - 1) == 0:
            logger.opt(depth=1).warning("{} count={}", message, count)
