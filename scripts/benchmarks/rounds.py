"""Measurements in turn, so that a machine whose clock drifts, or that is shared, treats all of them alike."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Measurement = Callable[[], float]


def interleave(measurements: Mapping[Name, Measurement], rounds: int, *, warm_up: int = 0) -> dict[Name, list[float]]:
    """Call all measurements in their order, ``rounds`` times over: A B C A B C …

    Gives each name's values, one for each round. ``warm_up`` rounds come before these and are not kept.
    """
    values: dict[Name, list[float]] = {name: [] for name in measurements}
    for number in range(warm_up + rounds):
        for name, measure in measurements.items():
            value = measure()
            if number >= warm_up:
                values[name].append(value)
    return values


def ratios(values: Sequence[float], over: Sequence[float]) -> list[float]:
    """What each round's value is to that of the same round ``over`` it: drift between the rounds cancels out."""
    return [value / other for value, other in zip(values, over, strict=True)]
