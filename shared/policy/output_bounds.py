"""Bounds of a policy's outputs: finite numbers, and actions of the action space. Compiled programs check them."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.policy.signature import PolicySignature, TensorSpec
from shared.policy.spaces import ActionSpec

# The policy clips or squashes an env_action in float32, so it may miss its bound by rounding.
BOUND_RTOL = 1e-6

_LARGEST = float(np.finfo(np.float32).max)


class Bounds(NamedTuple):
    """Inclusive bounds of an output ``[B, *shape]``: float32, one per number of a row, or one for all of them."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class InBounds(list[np.ndarray]):
    """Outputs that their program has found to be within ``bounds``."""

    __slots__ = ("bounds",)

    bounds: Sequence[Bounds]


def output_bounds(signature: PolicySignature) -> tuple[Bounds, ...]:
    """Return the bounds of each output of ``signature``."""
    return tuple(_bounds(signature.action, spec) for spec in signature.outputs)


@functools.lru_cache(maxsize=64)  # equal keys are usually the same object, which compares fast
def _bounds(action: ActionSpec, spec: TensorSpec) -> Bounds:
    low: Sequence[float] = (-_LARGEST,)
    high: Sequence[float] = (_LARGEST,)
    if spec.role == "action" and action.kind != "box":
        low, high = (0.0,), [n - 1.0 for n in cardinalities(action).flat]
    elif spec.role == "env_action" and action.kind == "box":
        low, high = box_limits(action.low, -1).tolist(), box_limits(action.high, 1).tolist()
    elif spec.role == "env_action":
        low = [float(start) for start in action.start] or (0.0,)
        high = [low[i % len(low)] + n - 1.0 for i, n in enumerate(cardinalities(action).flat)]
    return Bounds(spec.shape, _narrowed(low, 1), _narrowed(high, -1))


def cardinalities(action: ActionSpec) -> np.ndarray:
    """Return the number of values of each choice, int64 of the action's shape; not for a box."""
    if action.kind == "multi_binary":
        return np.full(action.shape, 2)
    return np.array(action.cardinalities).reshape(action.shape)


def box_limits(bounds: Sequence[float | None], sign: int) -> np.ndarray:
    """Return the bounds widened by ``BOUND_RTOL``, float64; ``sign`` is -1 for lower bounds and 1 for upper ones."""
    largest = float(np.finfo(np.float64).max)
    limits = [sign * largest if b is None else b + sign * BOUND_RTOL * max(1.0, abs(b)) for b in bounds]
    return np.array(limits)


def _narrowed(limits: Sequence[float], inwards: int) -> tuple[float, ...]:
    """Return ``limits`` as finite float32, rounded ``inwards`` (1: upwards); a single number if all are equal."""
    exact = np.clip(np.array(limits), -_LARGEST, _LARGEST)
    rounded = exact.astype(np.float32)
    is_wider = (exact - rounded) * inwards > 0
    rounded[is_wider] = np.nextafter(rounded[is_wider], np.float32(inwards * np.inf))
    numbers = tuple(rounded.tolist())
    return numbers[:1] if len(set(numbers)) == 1 else numbers
