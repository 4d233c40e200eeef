"""What peers do wrong, in the log, and a flood of it is no flood there."""

from collections import Counter
from collections.abc import Hashable

from loguru import logger

_PEERS_KEPT = 1000


class RateLimitedWarnings:
    """Each peer's first, second, fourth, eighth … fault is logged; under whatever names a flood comes."""

    def __init__(self) -> None:
        self._faults: Counter[Hashable] = Counter()

    def add(self, peer: Hashable, message: str) -> None:
        """``peer`` is what faults are counted by."""
        if len(self._faults) > _PEERS_KEPT:
            self._faults.clear()
        self._faults[peer] += 1
        times = self._faults[peer]
        if times & (times - 1) == 0:
            logger.opt(depth=1).warning("{} (complaint {})", message, times)
