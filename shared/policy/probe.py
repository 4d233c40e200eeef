"""Probes: golden inputs and outputs that show that a program computes what the learner's policy computes.

Rounding differences between processors or engines must not change a discrete choice, so rows in which they could are
replaced. Noise is added to logits before the maximum is taken; therefore subtracting ``margin`` from the noise of the
chosen action changes exactly the choices that lead by less. A policy that compares values without noise (Q-values)
defines ``choice_lead(inputs)``: the lead of its choice relative to the size of the values, float [B].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import ExportError, ProbeMismatch, SignatureMismatch, WeightsError
from shared.policy.noise import NoiseStream
from shared.policy.signature import ModuleSignature, PolicySignature, TensorSpec
from shared.policy.spaces import ActionSpec, ObservationLeaf
from shared.policy.weights import decode_tensors, decode_weights, encode_weights, is_float

if TYPE_CHECKING:
    from torch import Tensor

Policy = Callable[[list["Tensor"]], list["Tensor"]]
"""A module in eval mode, or any other callable of the same form."""

# The tolerances in a published probe. They are wider than those of the export: an actor may run other kernels.
PROBE_ATOL = PROBE_RTOL = 1e-4
_FIRST_MARGIN = 1e-2
_COARSE = 2.0**-5  # 32 units of float16, 4 of bfloat16: rounding adds up from layer to layer
_ROUNDS = 16  # each halves the margin, so that a policy with a thousand dimensions passes too


@dataclass(frozen=True)
class Probe:
    """Inputs and outputs of one batch, in the order of the signature."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


MakeInputs = Callable[[PolicySignature, int, int], list[np.ndarray]]
"""Function with the parameters of ``make_inputs``."""


def make_inputs(signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
    """Return random inputs of ``batch_size`` rows, determined by ``seed``; masks allow an action of every choice."""
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
        inputs.append(np.array(array, dtype=spec.dtype))
    return inputs


def compute_probe(
    policy: Policy, signature: PolicySignature, *, batch_size: int = 8, seed: int = 0, make: MakeInputs = make_inputs
) -> Probe:
    """Return inputs with clear choices and the outputs of ``policy``. Raises ExportError when none are found."""
    inputs = make(signature, batch_size, seed)
    margin = _FIRST_MARGIN
    for attempt in range(1, _ROUNDS + 1):
        outputs = run_policy(policy, signature, inputs)
        undecided = undecided_rows(policy, signature, inputs, outputs, margin)
        if not undecided.any():
            return Probe(tuple(inputs), tuple(outputs))
        fresh = make(signature, batch_size, seed + attempt * 1_000_003)
        for array, other in zip(inputs, fresh, strict=True):
            array[undecided] = other[undecided]
        margin /= 2
    raise ExportError(
        "check that the policy's action depends on its noise or its observation: found no "
        f"{batch_size} probe inputs in which the best two actions differ by more than rounding"
    )


def run_policy(policy: Policy, signature: PolicySignature, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Call a policy or a program on numpy arrays. Raises ExportError unless the outputs are finite and fit."""
    # Copied, because inputs may be read-only.
    return run_policy_in_place(policy, signature, [array.copy() for array in inputs])


def run_policy_in_place(policy: Policy, signature: PolicySignature, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Call a policy on arrays that it can write to; see ``run_policy``."""
    import torch

    with torch.no_grad():
        try:
            # Copied, because a policy may return a view of an input.
            outputs = [output.numpy().copy() for output in policy([torch.from_numpy(array) for array in inputs])]
        except Exception as error:  # a policy's own code may raise anything
            raise ExportError(f"the policy raised {type(error).__name__}: {error}") from error
    try:
        signature.check_outputs(outputs, inputs[0].shape[0])
    except SignatureMismatch as error:
        raise ExportError(f"the policy does not return what its signature promises: {error}") from error
    for spec, output in zip(signature.outputs, outputs, strict=True):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            row = np.argwhere(~np.isfinite(output))[0][0]
            raise ExportError(f"the policy's output {spec.name} is not finite: row {row} is {_short(output[row])}")
    return outputs


def compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], signature: PolicySignature, atol: float, rtol: float
) -> float:
    """Compare a policy's outputs as ``compare_outputs`` does, after a check against the signature."""
    check_outputs(signature, found, expected[0].shape[0])
    return _largest_difference(signature.output_names, expected, found, atol, rtol)


def check_outputs(signature: PolicySignature, found: Sequence[np.ndarray], batch_size: int) -> None:
    """Raise ProbeMismatch unless the outputs of a program fit the signature."""
    try:
        signature.check_outputs(found, batch_size)
    except SignatureMismatch as error:
        raise ProbeMismatch(f"the program does not return what its signature promises: {error}") from error


def compare_outputs(
    names: Sequence[str],
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    atol: float,
    rtol: float,
    *,
    scale: float = 1.0,
) -> float:
    """Return the largest absolute difference of any float output; ``names`` appear in the errors.

    Raises ProbeMismatch unless number, shapes and dtypes agree, floats are within ``atol + rtol * |expected|``, and
    everything else, infinities and NaN included, is equal. The tolerances of an output of 16 bits are at least those of
    its rounding. ``scale`` is a factor of all.
    """
    if len(expected) != len(found):
        raise ProbeMismatch(f"expected {len(expected)} outputs, found {len(found)}")
    for name, wanted, got in zip(names, expected, found, strict=True):
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            raise ProbeMismatch(f"{name}: expected {wanted.dtype} {wanted.shape}, found {got.dtype} {got.shape}")
    largest = 0.0
    for name, wanted, got in zip(names, expected, found, strict=True):
        least = _COARSE if is_float(wanted.dtype) and wanted.itemsize == 2 else 0.0
        tolerances = scale * max(atol, least), scale * max(rtol, least)
        largest = max(largest, _largest_difference([name], [wanted], [got], *tolerances))
    return largest


def _largest_difference(
    names: Sequence[str], expected: Sequence[np.ndarray], found: Sequence[np.ndarray], atol: float, rtol: float
) -> float:
    largest = 0.0
    for name, wanted, got in zip(names, expected, found, strict=True):
        difference, excess = differences(wanted, got, atol, rtol)
        if (excess > 0).any():
            worst = _worst_row(wanted, got, excess)
            raise ProbeMismatch(f"{name}, {worst} differ by more than {atol:g} + {rtol:g} * |expected|")
        largest = max(largest, difference)
    return largest


def differences(wanted: np.ndarray, got: np.ndarray, atol: float, rtol: float) -> tuple[float, np.ndarray]:
    """Return the largest difference of floats, and for each number how far it is beyond its tolerance."""
    if not is_float(wanted.dtype):
        return 0.0, np.not_equal(wanted, got).astype(np.float64)
    if wanted.dtype.kind != "f":  # numpy computes with its own floats only
        wanted, got = wanted.astype(np.float32), got.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(np.subtract(got, wanted, dtype=np.float64))
        excess = difference - (atol + rtol * np.abs(wanted, dtype=np.float64))
    if not (excess <= 0).all():  # also if there are infinities or NaN, which have to be the same on both sides
        same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
        difference = np.where(same, 0.0, difference)
        excess = np.where(same, 0.0, np.nan_to_num(excess, nan=np.inf))
    return float(difference.max(initial=0.0)), excess


def _worst_row(wanted: np.ndarray, got: np.ndarray, excess: np.ndarray) -> str:
    wanted, got, excess = (np.atleast_1d(array) for array in (wanted, got, excess))
    row = int(np.unravel_index(np.argmax(excess), excess.shape)[0])
    rows = int((excess > 0).any(axis=tuple(range(1, excess.ndim))).sum())
    return f"row {row}: expected {_short(wanted[row])}, found {_short(got[row])}; {rows} of {len(excess)} rows"


def encode_probe(probe: Probe, signature: PolicySignature | ModuleSignature) -> bytes:
    """Return a safetensors file with tensors ``input.<name>`` and ``output.<name>``."""
    arrays = {f"input.{name}": array for name, array in zip(signature.input_names, probe.inputs, strict=True)}
    arrays |= {f"output.{name}": array for name, array in zip(signature.output_names, probe.outputs, strict=True)}
    return encode_weights(arrays)


def decode_probe(data: bytes, signature: PolicySignature | ModuleSignature) -> Probe:
    """Return the probe in read-only arrays, finite for a policy. Raises ProbeMismatch unless it fits the signature."""
    is_module = isinstance(signature, ModuleSignature)
    try:
        arrays = decode_tensors(data) if is_module else decode_weights(data)
        probe = Probe(
            tuple(arrays[f"input.{name}"] for name in signature.input_names),
            tuple(arrays[f"output.{name}"] for name in signature.output_names),
        )
        if isinstance(signature, ModuleSignature):
            sizes = signature.check_inputs(probe.inputs)
            signature.check_outputs(probe.outputs, sizes)
        else:
            signature.check_inputs(probe.inputs)
            signature.check_outputs(probe.outputs, probe.inputs[0].shape[0])
    except (WeightsError, SignatureMismatch) as error:
        raise ProbeMismatch(f"the probe does not fit the signature: {error}") from error
    except KeyError as error:
        raise ProbeMismatch(f"the probe lacks {error}") from error
    return probe


def undecided_rows(
    policy: Policy,
    signature: PolicySignature,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    margin: float = _FIRST_MARGIN,
) -> np.ndarray:
    """Return the rows, bool [B], in which a discrete choice leads by less than ``margin``."""
    position = signature.output_position("action")
    if position is None or signature.action.kind == "box":
        return np.zeros(len(inputs[0]), np.bool_)
    action = outputs[position]
    is_close = np.asarray(_own_lead(policy, inputs) < margin)
    for moved in _moved(signature, inputs, action, margin):
        changed = np.not_equal(run_policy(policy, signature, moved)[position], action)
        is_close |= changed.reshape(len(action), -1).any(axis=1)
    return is_close


def _moved(
    signature: PolicySignature, inputs: Sequence[np.ndarray], action: np.ndarray, margin: float
) -> Iterator[list[np.ndarray]]:
    """Yield the inputs with the noise moved away from the choice; without noise, with every float moved, both ways."""
    noise = signature.input_position("noise")
    if noise is not None:
        away = inputs[noise] - margin * _towards_choice(signature.action, action)
        yield [*inputs[:noise], away, *inputs[noise + 1 :]]
        return
    signs = np.random.default_rng(0)
    steps = [_step(array, margin, signs) if array.dtype.kind == "f" else None for array in inputs]
    for way in (1, -1):
        yield [array if step is None else array + way * step for array, step in zip(inputs, steps, strict=True)]


def _step(array: np.ndarray, margin: float, signs: np.random.Generator) -> np.ndarray:
    """Return for each number of ``array`` a hundredth of ``margin``, absolute or relative, with a random sign."""
    sign = signs.choice(np.array([-1, 1], array.dtype), array.shape)
    return np.asarray(sign * np.maximum(np.abs(array), 1) * array.dtype.type(margin * 1e-2))


def _own_lead(policy: Policy, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``policy.choice_lead``, float [B], or infinity without that method."""
    choice_lead = getattr(policy, "choice_lead", None)
    if choice_lead is None:
        return np.full(inputs[0].shape[0], np.inf)
    import torch

    with torch.no_grad():
        return np.asarray(choice_lead([torch.from_numpy(array.copy()) for array in inputs]))


def _towards_choice(spec: ActionSpec, action: np.ndarray) -> np.ndarray:
    """Return the direction of the noise that favours the choice: 1, -1, or 0 where it has no influence."""
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
    """Allow half of the actions, and at least one of each choice."""
    parts = []
    for cardinality in action.cardinalities:
        part = generator.random((batch_size, cardinality)) < 0.5
        part[np.arange(batch_size), generator.integers(0, cardinality, batch_size)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _short(array: np.ndarray) -> str:
    return np.array2string(np.asarray(array), precision=7, threshold=8)
