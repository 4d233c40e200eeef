"""Inputs that differ from given ones: with other signs and decisions, or far from them."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from shared.engines.torch_arrays import array_of, tensor_of
from shared.errors import ExportError
from shared.policy.probe import (
    PROBE_ATOL,
    PROBE_RTOL,
    Policy,
    Probe,
    differences,
    make_inputs,
    run_policy,
    undecided_rows,
)
from shared.policy.signature import PolicySignature, TensorSpec
from shared.policy.weights import is_bfloat16, is_float

Vary = Callable[[np.ndarray, np.random.Generator], np.ndarray]

MAGNITUDES = (10.0, 100.0, 1e4)  # of wide inputs: operators overflow, saturate or lose small terms in turn
_OF_ROWS = (1e4, 100.0, 10.0, 1e-6)
_OF_STATES = 10.0  # a state is a result; ONNX Runtime's gates are never 0, which a cell of 1e4 would show
_MOVED = 1e-6  # relative: about eight units in the last place of float32
_MOVES = 4  # a single one might by chance cancel


def widened(array: np.ndarray, magnitude: float, generator: np.random.Generator) -> np.ndarray:
    """Return floats like ``array`` up to ``magnitude``, about 1, about 1e-6, and a 0; no others are equal.

    All are large and positive in the first row, and negative in the second. Infinities stay.
    """
    limit = magnitude if is_bfloat16(array.dtype) else min(magnitude, float(np.finfo(array.dtype).max) / 4)
    sign, size = generator.choice([-1, 1], array.shape), generator.choice([1e-6, 1, limit, limit], array.shape)
    if array.ndim:
        sign[:1], sign[1:2], size[:2] = 1, -1, limit
    wide = sign * size * generator.uniform(0.5, 1, array.shape)
    wide.reshape(-1)[-1:] = 0
    return _with_infinities(wide, array).astype(array.dtype)


def is_widened(spec: TensorSpec) -> bool:
    """Return True for an input of a policy that has wide values: floats of the environment or the state, and bytes."""
    dtype = np.dtype(spec.dtype)
    return spec.role in ("observation", "state") and (dtype.kind == "f" or dtype == np.uint8)


def with_wide_rows(policy: Policy, signature: PolicySignature, probe: Probe) -> Probe:
    """Return ``probe`` with wide inputs in its second half: floats of 0, 1e-6, 10, 100 and 1e4, bytes of 0 and 255.

    A row stays as it is unless rounding cannot change its new outputs: the actor's processor may round otherwise, and
    compares with the tolerances of a published probe. Such a row is drawn again with smaller numbers first.
    """
    inputs, outputs = ([array.copy() for array in arrays] for arrays in (probe.inputs, probe.outputs))
    pending = np.arange(len(inputs[0]) // 2, len(inputs[0]))
    if not any(map(is_widened, signature.inputs)):
        return probe
    for largest in reversed(MAGNITUDES):
        magnitudes = np.minimum(np.resize(_OF_ROWS, len(pending)), largest)
        wide = _wide_rows(signature, magnitudes)
        try:
            found = run_policy(policy, signature, wide)
            steady = ~undecided_rows(policy, signature, wide, found) & _is_steady(policy, signature, wide, found)
        except ExportError:  # the policy overflows for one of them, or does not accept it
            continue
        for array, new in zip((*inputs, *outputs), (*wide, *found), strict=True):
            array[pending[steady]] = new[steady]
        pending = pending[~steady]
        if not pending.size:
            break
    return Probe(tuple(inputs), tuple(outputs))


def _wide_rows(signature: PolicySignature, magnitudes: np.ndarray) -> list[np.ndarray]:
    """Return inputs with a row of each magnitude."""
    generator = np.random.default_rng([len(magnitudes), int(magnitudes.sum())])
    inputs = make_inputs(signature, len(magnitudes), seed=1)
    for i, spec in enumerate(signature.inputs):
        array = inputs[i]
        if is_widened(spec) and array.dtype == np.uint8:
            inputs[i] = generator.choice(np.array([0, 255], np.uint8), array.shape)
        elif is_widened(spec):
            sizes = np.minimum(magnitudes, _OF_STATES) if spec.role == "state" else magnitudes
            size = sizes.reshape(-1, *[1] * (array.ndim - 1))
            parts = generator.choice([-1, 1], array.shape) * generator.choice([0, 1e-6, 1, 1, 1], array.shape)
            inputs[i] = np.asarray(parts * size * generator.uniform(0.5, 1, array.shape), array.dtype)
    return inputs


def _is_steady(
    policy: Policy, signature: PolicySignature, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the rows, bool [B], whose outputs stay far within the tolerances if all floats of the inputs move."""
    generator = np.random.default_rng(0)
    row = np.tile(np.arange(len(inputs[0])), _MOVES)
    near = [array[row] for array in inputs]
    for i, spec in enumerate(signature.inputs):
        if is_widened(spec) and near[i].dtype.kind == "f":
            moved = near[i] * (1 + generator.choice([-_MOVED, _MOVED], near[i].shape))
            near[i] = np.asarray(moved, near[i].dtype)
    steady = np.ones(len(row), np.bool_)
    for expected, found in zip(outputs, run_policy(policy, signature, near), strict=True):
        _, excess = differences(expected[row], found, PROBE_ATOL / 10, PROBE_RTOL / 10)
        steady &= (excess <= 0).reshape(len(row), -1).all(-1)
    return np.asarray(steady.reshape(_MOVES, -1).all(0))


def varied(tensors: Sequence[Tensor], generator: np.random.Generator, floats: Vary, discrete: Vary) -> list[Tensor]:
    """Return ``floats`` of each float tensor and ``discrete`` of each other tensor."""
    found = []
    for tensor in tensors:
        array = array_of(tensor)
        vary = floats if is_float(array.dtype) else discrete
        moved = vary(array.astype(np.float32) if is_bfloat16(array.dtype) else array, generator).astype(array.dtype)
        found.append(tensor_of(np.array(moved, order="C")))
    return found


def _negated(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Change sign and size, so that a branch on the values goes the other way."""
    finite = np.where(np.isfinite(array), array, 0)
    moved = -finite * generator.uniform(0.5, 1.5, array.shape) - 0.1 * np.sign(finite.sum())
    return _with_infinities(moved, array)


def _within_range(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    finite = array[np.isfinite(array)]
    if not finite.size:
        return array
    share = generator.uniform(size=array.shape)
    return _with_infinities(finite.min() * (1 - share) + finite.max() * share, array)


def _with_infinities(moved: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return ``moved`` with the infinities of ``array``, which mask what a module must not see, in their places."""
    finite = np.isfinite(array)
    return moved if finite.all() else np.where(finite, moved, array)


def _shuffled(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permuted(array.ravel()).reshape(array.shape)


def _permuted(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Permute whole rows and columns: where two indices of a scatter collide, programs need not agree."""
    if array.ndim == 0:
        return array
    return array[generator.permutation(len(array))][..., generator.permutation(array.shape[-1])]


def _opposite(array: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Invert masks, mirror indices between the smallest and the largest, and increment a single number."""
    if array.dtype == np.bool_:
        return ~array
    if array.ndim == 0:
        return np.asarray(array + 1)
    return np.asarray(array.max() - (array - array.min())) if array.size else array


def _random(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw masks at random, permute indices, and decrement a single number."""
    if array.dtype == np.bool_:
        return generator.integers(0, 2, array.shape).astype(np.bool_)
    return np.asarray(array - 1) if array.ndim == 0 else _permuted(array, generator)


VARIATIONS: tuple[tuple[Vary, tuple[Vary, ...]], ...] = (
    (_negated, (_opposite, _random, _permuted)),
    (_within_range, (_random, _permuted)),
    (_shuffled, (_random, _permuted)),
)
"""Variations of floats, each with variations of all else to try, boldest first, until the module accepts the inputs."""
