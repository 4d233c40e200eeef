"""Golden inputs and outputs: what proves that a program computes what the learner's own policy computes.

A rounding difference between two processors, or two engines, must never turn a discrete choice, so rows in which it
could are replaced. The margin is found from outside, through the policy's purity: noise is added to logits before the
best is chosen, so taking ``margin`` from the chosen one's noise changes the choice exactly where its lead was smaller.
A policy that compares what no noise is added to (Q-values) says itself how far its choice leads, relative to the size
of what is compared: ``choice_lead(inputs)``, float [B].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import ExportError, ProbeMismatch, SignatureMismatch, WeightsError
from shared.policy.noise import NoiseStream
from shared.policy.signature import PolicySignature, TensorSpec
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.policy.weights import decode_weights, encode_weights

if TYPE_CHECKING:
    from torch import Tensor

Policy = Callable[[list["Tensor"]], list["Tensor"]]
"""A module in eval mode, or anything else that is called as one."""

# The tolerances in a published probe. They are wider than those of the export: an actor may run other kernels.
PROBE_ATOL = PROBE_RTOL = 1e-4
_FIRST_MARGIN = 1e-2
_ROUNDS = 16  # each asks for half the margin of the one before: a policy with a thousand dimensions gets there too


@dataclass(frozen=True)
class Probe:
    """One batch, in the order of the signature."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


MakeInputs = Callable[[PolicySignature, int, int], list[np.ndarray]]
"""As ``make_inputs``."""


def make_inputs(signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
    """Plausible inputs, the same for the same seed; every mask leaves at least one action of each choice."""
    generator = np.random.default_rng([seed, batch_size])
    leaves = iter(signature.observation)
    inputs = []
    for spec in signature.inputs:
        shape = (batch_size, *spec.shape)
        if spec.role == "observation":
            array = _observation(next(leaves), spec, shape, generator)
        elif spec.role == "action_mask":
            array = _mask(signature.action, batch_size, generator)
        elif spec.role == "noise":
            array = NoiseStream(signature.action, batch_size, seed).at(0)
        else:
            array = generator.uniform(-1, 1, shape)
        inputs.append(np.array(array, dtype=spec.dtype, order="C").reshape(shape))
    return inputs


def compute_probe(
    policy: Policy, signature: PolicySignature, *, batch_size: int = 8, seed: int = 0, make: MakeInputs = make_inputs
) -> Probe:
    """What ``policy`` answers. Raises ExportError where it answers with what its signature does not promise."""
    inputs = make(signature, batch_size, seed)
    margin = _FIRST_MARGIN
    for attempt in range(1, _ROUNDS + 1):
        outputs = run_policy(policy, signature, inputs)
        undecided = _undecided(policy, signature, inputs, outputs, margin)
        if not undecided.any():
            return Probe(tuple(inputs), tuple(outputs))
        fresh = make(signature, batch_size, seed + attempt * 1_000_003)
        for array, other in zip(inputs, fresh, strict=True):
            array[undecided] = other[undecided]
        margin /= 2
    raise ExportError(
        f"found no {batch_size} probe inputs for which the policy's choice is clear: its best two actions always come "
        "within rounding of each other. Does its action depend on its noise, or on its observation?"
    )


def run_policy(policy: Policy, signature: PolicySignature, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Call an eager policy or a program on numpy arrays. Raises ExportError unless the outputs fit and are finite."""
    import torch

    with torch.no_grad():
        # Copies on both sides: a policy may return a view of an input, and inputs may be read-only.
        try:
            outputs = [output.numpy().copy() for output in policy([torch.from_numpy(array.copy()) for array in inputs])]
        except Exception as error:  # a policy's own code may raise anything
            raise ExportError(f"the policy raised {type(error).__name__}: {error}") from error
    try:
        signature.check_outputs(outputs, inputs[0].shape[0])
    except SignatureMismatch as error:
        raise ExportError(f"the policy does not return what its signature promises: {error}") from error
    for spec, output in zip(signature.outputs, outputs, strict=True):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise ExportError(f"the policy's output {spec.name} is not finite: {_row(output, ~np.isfinite(output))}")
    return outputs


def compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], signature: PolicySignature, atol: float, rtol: float
) -> float:
    """The largest difference of any output. Raises ProbeMismatch unless each is within ``atol + rtol * |expected|``.

    What is not a float must be equal.
    """
    try:
        signature.check_outputs(found, expected[0].shape[0])
    except SignatureMismatch as error:
        raise ProbeMismatch(f"the program does not return what its signature promises: {error}") from error
    largest = 0.0
    for spec, wanted, got in zip(signature.outputs, expected, found, strict=True):
        is_float = wanted.dtype.kind == "f"
        if not is_float and np.array_equal(wanted, got):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(np.subtract(got, wanted, dtype=np.float64))
        allowed = atol + rtol * np.abs(wanted, dtype=np.float64) if is_float else np.zeros(wanted.shape)
        wrong = ~(difference <= allowed)  # NaN is wrong too
        if wrong.any():
            worst = np.where(wrong, np.nan_to_num(difference - allowed, nan=np.inf), -np.inf)
            row = int(np.unravel_index(np.argmax(worst), worst.shape)[0])
            raise ProbeMismatch(
                f"{spec.name}, row {row}: expected {_short(wanted[row])}, found {_short(got[row])}; "
                f"{int(wrong.any(axis=tuple(range(1, wrong.ndim))).sum())} of {len(wrong)} rows differ by more than "
                f"{atol:g} + {rtol:g} * |expected|"
            )
        if is_float and difference.size:
            largest = max(largest, float(difference.max()))
    return largest


def encode_probe(probe: Probe, signature: PolicySignature) -> bytes:
    """A safetensors file with tensors ``input.<name>`` and ``output.<name>``."""
    arrays = {f"input.{name}": array for name, array in zip(signature.input_names, probe.inputs, strict=True)}
    arrays |= {f"output.{name}": array for name, array in zip(signature.output_names, probe.outputs, strict=True)}
    return encode_weights(arrays)


def decode_probe(data: bytes, signature: PolicySignature) -> Probe:
    """Raises ProbeMismatch for a probe that is not one of this signature. The arrays are read-only."""
    try:
        arrays = decode_weights(data)
        probe = Probe(
            tuple(arrays[f"input.{name}"] for name in signature.input_names),
            tuple(arrays[f"output.{name}"] for name in signature.output_names),
        )
        signature.check_inputs(probe.inputs)
        signature.check_outputs(probe.outputs, probe.inputs[0].shape[0])
    except (WeightsError, SignatureMismatch) as error:
        raise ProbeMismatch(f"the probe is not one of this signature: {error}") from error
    except KeyError as error:
        raise ProbeMismatch(f"the probe lacks {error}") from error
    return probe


def _undecided(
    policy: Policy,
    signature: PolicySignature,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    margin: float,
) -> np.ndarray:
    """Which rows [B] of a discrete choice lead by less than ``margin``."""
    position = signature.output_position("action")
    if position is None or signature.action.kind == "box":
        return np.zeros(inputs[0].shape[0], np.bool_)
    action = outputs[position]
    noise = signature.input_position("noise")
    moved = list(inputs)
    if noise is not None:
        moved[noise] = inputs[noise] - margin * _towards_choice(signature.action, action)
    else:  # a policy without noise: its observation is all that can be moved
        signs = np.random.default_rng(0)
        for i, array in enumerate(inputs):
            if array.dtype.kind == "f":
                sign = signs.choice(np.array([-1, 1], array.dtype), array.shape)
                moved[i] = array + sign * np.maximum(np.abs(array), 1) * array.dtype.type(margin * 1e-2)
    changed = np.not_equal(run_policy(policy, signature, moved)[position], action).reshape(len(action), -1)
    return np.asarray(changed.any(axis=1) | (_own_lead(policy, inputs) < margin))


def _own_lead(policy: Policy, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What the policy itself says of its lead [B]; infinite where it says nothing."""
    tell = getattr(policy, "choice_lead", None)
    if tell is None:
        return np.full(inputs[0].shape[0], np.inf)
    import torch

    with torch.no_grad():
        return np.asarray(tell([torch.from_numpy(array.copy()) for array in inputs]))


def _towards_choice(spec: ActionSpec, action: np.ndarray) -> np.ndarray:
    """For each number of noise: 1 where it spoke for what was chosen, -1 where it spoke against it, 0 elsewhere."""
    if spec.kind == "multi_binary":
        return np.where(action == 1, 1, -1).astype(np.float32)
    offsets = np.cumsum([0, *spec.cardinalities[:-1]])
    chosen = np.zeros((len(action), sum(spec.cardinalities)), np.float32)
    np.put_along_axis(chosen, action.reshape(len(action), -1) + offsets, 1, axis=1)
    return chosen


def _observation(
    leaf: ObservationLeaf, spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    if leaf.kind in ("discrete", "multi_discrete"):
        cardinalities = np.array(leaf.cardinalities).reshape(leaf.shape)
        return np.array(generator.integers(0, cardinalities, shape) + np.array(leaf.start).reshape(leaf.shape))
    if leaf.kind == "multi_binary" or spec.dtype == "bool":
        return generator.integers(0, 2, shape)
    if spec.dtype.startswith(("int", "uint")):
        return generator.integers(0, min(256, np.iinfo(spec.dtype).max + 1), shape)
    return generator.standard_normal(shape)


def _mask(action: ActionSpec, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    """Half of the actions are legal, and one of each choice surely."""
    parts = []
    for cardinality in action.cardinalities:
        part = generator.random((batch_size, cardinality)) < 0.5
        part[np.arange(batch_size), generator.integers(0, cardinality, batch_size)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _row(array: np.ndarray, where: np.ndarray) -> str:
    row = int(np.argwhere(where)[0][0])
    return f"row {row} is {_short(array[row])}"


def _short(array: np.ndarray) -> str:
    return np.array2string(np.asarray(array), precision=7, threshold=8, edgeitems=3).replace("\n", "")
