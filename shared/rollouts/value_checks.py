"""Checks of the values in a rollout: finite numbers within bounds, flags that are flags, and choices that exist.

A value that an environment or a policy cannot have given raises RolloutOutOfBounds with its name, place and value.
"""

import math

import numpy as np

from shared.errors import RolloutInvalid, RolloutOutOfBounds
from shared.policy.spaces import ActionSpec

_LOG_PROB_LIMIT = 100.0
_ROUNDING = 1e-3


def log_prob_bounds(action: ActionSpec) -> tuple[float, float]:
    """Return the smallest and largest log-probability of a drawn action, in nats.

    A choice is drawn with Gumbel or logistic noise between -28 and 17, so its probability is at least about e^-45; a
    number is at most about seven standard deviations from the mean. The bounds are -100 for each choice or number, 0
    for a probability, and 100 for the density of a number, whose standard deviation is then near the limit of float32.
    """
    parts = max(len(action.cardinalities), math.prod(action.shape))
    highest = _LOG_PROB_LIMIT if action.kind == "box" else _ROUNDING
    return -_LOG_PROB_LIMIT * parts, highest * parts


def check_elements(name: str, array: np.ndarray) -> None:
    """Raise unless floats are finite and bools are 0 or 1."""
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise RolloutOutOfBounds(f"{name} holds values that are not finite: {_first(name, array, ~finite)}")
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise RolloutInvalid(f"{name} holds bytes that are neither true nor false")


def check_within(name: str, array: np.ndarray, low: float, high: float, why: str = "") -> None:
    """Raise unless all elements are in ``[low, high]``; ``why`` explains the bounds."""
    if array.size and not (array.min() >= low and array.max() <= high):
        outside = ~((array >= low) & (array <= high))
        bounds = f"[{low:g}, {high:g}]{why}"
        raise RolloutOutOfBounds(f"{name} holds values outside {bounds}: {_first(name, array, outside)}")


def check_choices(
    name: str,
    array: np.ndarray,
    start: "int | np.ndarray",
    end: "int | np.ndarray",
    error: type[RolloutInvalid] = RolloutOutOfBounds,
) -> None:
    """Raise ``error`` unless all elements are in ``[start, end)``, which are broadcast."""
    outside = (array < start) | (array >= end)
    if outside.any():
        raise error(f"{name} holds choices that do not exist: {_first(name, array, outside)}")


def _first(name: str, array: np.ndarray, bad: np.ndarray) -> str:
    place = np.unravel_index(int(bad.argmax()), bad.shape)
    return f"{name}[{', '.join(map(str, map(int, place)))}] is {array[place]:g}"
