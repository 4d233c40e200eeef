"""Interleaved measurements, so that a shared machine, or one whose clock drifts, treats all of them alike."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Measurement = Callable[[], float]
Piece = Callable[[], int]
"""Continues a loop for a while and returns the number of environment steps that it took."""


def interleave(measurements: Mapping[Name, Measurement], rounds: int, *, warm_up: int = 0) -> dict[Name, list[float]]:
    """Call all measurements in order, ``rounds`` times: A B C A B C …

    Returns:
        The values of each name, one for each round. ``warm_up`` rounds come first and are discarded.
    """
    values: dict[Name, list[float]] = {name: [] for name in measurements}
    for number in range(warm_up + rounds):
        for name, measure in measurements.items():
            value = measure()
            if number >= warm_up:
                values[name].append(value)
    return values


def ratios(values: Sequence[float], over: Sequence[float]) -> list[float]:
    """Divide each round's value by that of the same round in ``over``; drift between rounds cancels out."""
    return [value / other for value, other in zip(values, over, strict=True)]


def steps_per_s(run_piece: Piece, at_least_s: float) -> float:
    """Run pieces for ``at_least_s`` seconds and return environment steps per second."""
    steps = 0
    began_s = time.perf_counter()
    while True:
        steps += run_piece()
        took_s = time.perf_counter() - began_s
        if took_s >= at_least_s:
            return steps / took_s
