"""Steps per second of a loop that is run piece by piece."""

import time
from collections.abc import Callable

Piece = Callable[[], int]
"""Goes on with a loop for a while and says how many environment steps that were."""


def steps_per_s(run_piece: Piece, at_least_s: float) -> float:
    """Run pieces for ``at_least_s`` and give environment steps per second."""
    steps = 0
    began_s = time.perf_counter()
    while True:
        steps += run_piece()
        took_s = time.perf_counter() - began_s
        if took_s >= at_least_s:
            return steps / took_s
