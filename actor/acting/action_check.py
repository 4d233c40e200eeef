"""Checks of a policy's outputs before they reach an environment: finite, in the action space, legal under the mask.

The check runs at each step, so everything that is known beforehand is prepared, and memory is allocated once. It is
skipped if the program itself found its outputs in bounds.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from shared.policy.output_bounds import InBounds, box_limits, cardinalities, output_bounds
from shared.policy.signature import PolicySignature
from shared.policy.spaces import ActionSpec

Outputs = Sequence[np.ndarray]
Check = Callable[[Outputs, np.ndarray | None], str | None]
"""Returns a description of invalid outputs, given the mask [B, n] if the policy takes one, or None."""

_Test = Callable[[np.ndarray], bool]


def action_check(signature: PolicySignature, batch_size: int) -> Check:
    """Return the check for programs of ``signature`` that are called with ``batch_size`` rows."""
    shapes = [(batch_size, *spec.shape) for spec in signature.outputs]
    tests = [_test(signature.action, spec.role, shape) for spec, shape in zip(signature.outputs, shapes, strict=True)]
    action_at = signature.output_position("action") or 0
    is_legal = _legality(signature.action, batch_size)
    bounds = output_bounds(signature)

    def find_fault(outputs: Outputs) -> str | None:
        if [output.shape for output in outputs] != shapes:
            return f"outputs of shapes {[output.shape for output in outputs]}; its signature promises {shapes}"
        for i, test in enumerate(tests):
            if not test(outputs[i]):
                return f"{signature.outputs[i].name} {_quote(outputs[i])}, which is not in {_describe(signature, i)}"
        return None

    def check(outputs: Outputs, mask: np.ndarray | None) -> str | None:
        # Bounds are compared: the engine may come from a version with another action space.
        is_known = isinstance(outputs, InBounds) and outputs.bounds == bounds and len(outputs[0]) == batch_size
        if not is_known and (fault := find_fault(outputs)) is not None:
            return fault
        if mask is not None and not is_legal(outputs[action_at], mask):
            return f"action {_quote(outputs[action_at])}, which the action mask forbids"
        return None

    return check


def _test(action: ActionSpec, role: str, shape: tuple[int, ...]) -> _Test:
    if role == "action" and action.kind != "box":
        return _below(cardinalities(action), shape)
    if role == "env_action":
        return _in_box(action, shape) if action.kind == "box" else _in_range(action, shape)
    return _finite(shape)


def _finite(shape: tuple[int, ...]) -> _Test:
    if math.prod(shape) == 1:
        return lambda array: math.isfinite(array.item())
    found, all_true = _flags(shape)

    def test(array: np.ndarray) -> bool:
        np.isfinite(array, found)
        return found.tobytes() == all_true

    return test


def _below(numbers: np.ndarray, shape: tuple[int, ...]) -> _Test:
    if math.prod(shape) == 1:
        n = int(numbers.item())
        return lambda array: bool(0 <= array.item() < n)
    found, all_true = _flags(shape)
    limit = np.ascontiguousarray(np.broadcast_to(numbers.astype(np.uint64), shape))  # half the time of a scalar limit

    def test(array: np.ndarray) -> bool:
        np.less(array.view(np.uint64), limit, found)  # negative numbers are too large as unsigned ones
        return found.tobytes() == all_true

    return test


def _in_range(action: ActionSpec, shape: tuple[int, ...]) -> _Test:
    start = np.array(action.start or 0, np.int64).reshape(action.shape if action.start else ())
    below = _below(cardinalities(action), shape)
    return lambda array: below(np.ascontiguousarray(array.astype(np.int64) - start))


def _in_box(action: ActionSpec, shape: tuple[int, ...]) -> _Test:
    low, high = box_limits(action.low, -1).reshape(action.shape), box_limits(action.high, 1).reshape(action.shape)
    above, below = _flags(shape), _flags(shape)

    def test(array: np.ndarray) -> bool:
        # NaN fails both comparisons; an infinity lies beyond the finite limits.
        np.greater_equal(array, low, above[0])
        np.less_equal(array, high, below[0])
        return above[0].tobytes() == above[1] and below[0].tobytes() == below[1]

    return test


def _legality(action: ActionSpec, batch_size: int) -> Callable[[np.ndarray, np.ndarray], bool]:
    """Return a test that each action, known to be in range, is legal under its row of the mask."""
    choices = max(1, len(action.cardinalities))
    if batch_size == 1 and choices == 1:
        return lambda array, mask: bool(mask[0, array.item()])
    rows = np.arange(batch_size)[:, None]
    offsets = np.cumsum([0, *action.cardinalities[:-1]])
    all_true = np.ones((batch_size, choices), np.bool_).tobytes()

    def is_legal(array: np.ndarray, mask: np.ndarray) -> bool:
        legal: bytes = mask[rows, array.reshape(batch_size, choices) + offsets].tobytes()
        return legal == all_true

    return is_legal


def _flags(shape: tuple[int, ...]) -> tuple[np.ndarray, bytes]:
    return np.empty(shape, np.bool_), np.ones(shape, np.bool_).tobytes()


def _quote(array: np.ndarray) -> str:
    """Return an output's first row that is not finite, else a summary of the output, for a message."""
    rows = array.reshape(len(array), -1)
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        return f"{np.array2string(array[row], precision=4, threshold=8)} (row {row})"
    return np.array2string(array, precision=4, threshold=8)


def _describe(signature: PolicySignature, i: int) -> str:
    spec, action = signature.outputs[i], signature.action
    if spec.role not in ("action", "env_action") or (spec.role == "action" and action.kind == "box"):
        return "the finite numbers"
    if action.kind == "box":
        return f"Box(low={list(action.low)}, high={list(action.high)})"
    start = action.start if spec.role == "env_action" else ()
    return f"{action.kind}(n={list(action.cardinalities) or 2}{f', start={list(start)}' if any(start) else ''})"
