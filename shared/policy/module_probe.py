"""Golden inputs and outputs of a module that was exported as it is, and the comparison of a program with it."""

from collections.abc import Sequence

import numpy as np

from shared.errors import ProbeMismatch, SignatureMismatch, WeightsError
from shared.policy.module_signature import ModuleSignature
from shared.policy.probe import Probe
from shared.policy.weights import decode_tensors, encode_weights


def encode_module_probe(probe: Probe, signature: ModuleSignature) -> bytes:
    """A safetensors file with tensors ``input.<name>`` and ``output.<name>``."""
    arrays = {f"input.{spec.name}": array for spec, array in zip(signature.inputs, probe.inputs, strict=True)}
    arrays |= {f"output.{spec.name}": array for spec, array in zip(signature.outputs, probe.outputs, strict=True)}
    return encode_weights(arrays)


def decode_module_probe(data: bytes, signature: ModuleSignature) -> Probe:
    """Raises ProbeMismatch for a probe that is not one of this signature. The arrays are read-only."""
    try:
        arrays = decode_tensors(data)
        probe = Probe(
            tuple(arrays[f"input.{spec.name}"] for spec in signature.inputs),
            tuple(arrays[f"output.{spec.name}"] for spec in signature.outputs),
        )
        signature.check_inputs(probe.inputs)
        signature.check_outputs(probe.outputs)
    except (WeightsError, SignatureMismatch) as error:
        raise ProbeMismatch(f"the probe is not one of this signature: {error}") from error
    except KeyError as error:
        raise ProbeMismatch(f"the probe lacks {error}") from error
    return probe


def compare_outputs(
    names: Sequence[str], expected: Sequence[np.ndarray], found: Sequence[np.ndarray], atol: float, rtol: float
) -> float:
    """The largest difference of any output. Raises ProbeMismatch unless each is within ``atol + rtol * |expected|``.

    What is not a float must be equal; infinities and NaN must be where they were.
    """
    if len(expected) != len(found):
        raise ProbeMismatch(f"expected {len(expected)} outputs, found {len(found)}")
    largest = 0.0
    for name, wanted, got in zip(names, expected, found, strict=True):
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            raise ProbeMismatch(f"{name}: expected {wanted.dtype} {wanted.shape}, found {got.dtype} {got.shape}")
        if wanted.dtype.kind != "f":
            if not np.array_equal(wanted, got):
                raise ProbeMismatch(f"{name}: {int((wanted != got).sum())} of {wanted.size} values differ")
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
            allowed = atol + rtol * np.abs(wanted.astype(np.float64))
        same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
        difference = np.where(same, 0, difference)
        wrong = ~same & ~(np.isfinite(wanted) & (difference <= allowed))
        if wrong.any():
            at = np.unravel_index(np.argmax(wrong), wrong.shape)
            raise ProbeMismatch(
                f"{name}{[int(i) for i in at]}: expected {wanted[at]:.7g}, found {got[at]:.7g}; {int(wrong.sum())} of "
                f"{wanted.size} values differ by more than {atol:g} + {rtol:g} * |expected|"
            )
        if difference.size:
            largest = max(largest, float(difference.max()))
    return largest
