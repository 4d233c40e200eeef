"""What each output of a policy may hold: finite numbers, and actions that exist. For programs that check that."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.policy.signature import PolicySignature, TensorSpec
from shared.policy.spaces import ActionSpec

# An env_action was clipped or squashed inside the policy, in float32: it may stand beside its bound by that rounding.
BOUND_RTOL = 1e-6

_LARGEST = float(np.finfo(np.float32).max)


class Bounds(NamedTuple):
    """Of one output [B, *shape]: the least and the largest number, for each of a row's or, of length 1, for all.

    They are float32, and never wider than what they stand for.
    """

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class InBounds(list[np.ndarray]):
    """Outputs that the program itself found to be within ``bounds``, every number of them. Whoever makes it says so."""

    __slots__ = ("bounds",)

    bounds: Sequence[Bounds]


def output_bounds(signature: PolicySignature) -> tuple[Bounds, ...]:
    """One for each output of ``signature``."""
    return tuple(_bounds(signature.action, spec) for spec in signature.outputs)


@functools.lru_cache(maxsize=64)  # what is the same object is compared at once
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
    """How many values each choice has, int64 [*action] of an action that is no box."""
    if action.kind == "multi_binary":
        return np.full(action.shape, 2)
    return np.array(action.cardinalities).reshape(action.shape)


def box_limits(bounds: Sequence[float | None], sign: int) -> np.ndarray:
    """The numbers, float64, beyond which an ``env_action`` is outside of the box; ``sign`` is -1 for the lower ones."""
    largest = float(np.finfo(np.float64).max)
    limits = [sign * largest if b is None else b + sign * BOUND_RTOL * max(1.0, abs(b)) for b in bounds]
    return np.array(limits, np.float64)


def _narrowed(limits: Sequence[float], inwards: int) -> tuple[float, ...]:
    """``limits`` as finite float32, rounded ``inwards`` (1: upwards); one number where they are all the same."""
    exact = np.clip(np.array(limits, np.float64), -_LARGEST, _LARGEST)
    rounded = exact.astype(np.float32)
    is_wider = (exact - rounded) * inwards > 0
    rounded[is_wider] = np.nextafter(rounded[is_wider], np.float32(inwards * np.inf))
    numbers = tuple(rounded.tolist())
    return numbers[:1] if len(set(numbers)) == 1 else numbers
