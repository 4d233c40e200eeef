"""What a version must prove before it may act, whatever runs it: a signature that makes sense, and the probe."""

from collections.abc import Callable, Sequence

import numpy as np
import psutil  # type: ignore[import-untyped]

from shared.errors import ManifestError, TransientLoadError
from shared.policy.manifest import Manifest
from shared.policy.probe import Probe, compare
from shared.policy.signature import PolicySignature, Role

# The bytes, the engine's copy of them, and a standby's.
_COPIES = 3
_SMALL_BYTES = 2**28
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "Cannot allocate")

_INPUT_ORDER: tuple[Role, ...] = ("observation", "state", "action_mask", "noise")
_AT_MOST_ONCE: tuple[Role, ...] = ("action_mask", "noise", "env_action", "log_prob", "value")


def check_signature(signature: PolicySignature) -> None:
    """Raise ManifestError unless the signature is one that the agent can call and understand."""
    if signature.action.kind == "none":
        raise ManifestError("a module and no policy to act with; actor.versions.policy_loader.load_policy runs it")
    inputs, outputs = signature.inputs, signature.outputs
    roles = [spec.role for spec in (*inputs, *outputs)]
    if roles.count("action") != 1 or any(roles.count(role) > 1 for role in _AT_MOST_ONCE):
        raise ManifestError(f"expected one action and at most one of {_AT_MOST_ONCE}; found {roles}")
    leaves = [(leaf.path, leaf.dtype, leaf.shape) for leaf in signature.observation]
    observation = [(spec.path, spec.dtype, spec.shape) for spec in inputs if spec.role == "observation"]
    if not leaves or leaves != observation:
        raise ManifestError(f"expected the leaves of the observation as inputs, {leaves}; found {observation}")
    in_order = [_INPUT_ORDER.index(spec.role) if spec.role in _INPUT_ORDER else -1 for spec in inputs]
    if in_order != sorted(in_order) or -1 in in_order:
        raise ManifestError(f"expected inputs in the order {_INPUT_ORDER}; found {[spec.role for spec in inputs]}")
    if signature.state != tuple(outputs[len(outputs) - len(signature.state) :]):
        raise ManifestError("recurrent state must come out as it goes in, last: same names, shapes, dtypes and order")
    action, noise_at = signature.action, signature.input_position("noise")
    mask_at, env_action_at = signature.input_position("action_mask"), signature.output_position("env_action")
    action_spec = outputs[signature.output_position("action") or 0]
    _require("action", action_spec.shape, action_spec.dtype, action.shape, action.sample_dtype)
    if env_action_at is not None:
        _require("env_action", outputs[env_action_at].shape, outputs[env_action_at].dtype, action.shape, action.dtype)
    if noise_at is not None:
        _require("noise", inputs[noise_at].shape, inputs[noise_at].dtype, action.noise_shape, "float32")
    if mask_at is not None:
        _require("action_mask", inputs[mask_at].shape, inputs[mask_at].dtype, action.mask_shape, "bool")


def _require(
    name: str, shape: tuple[int, ...], dtype: str, expected_shape: tuple[int, ...] | None, expected_dtype: str
) -> None:
    if shape != expected_shape or dtype != expected_dtype:
        raise ManifestError(
            f"{name}: this action space needs {expected_dtype} {expected_shape}; the signature says {dtype} {shape}"
        )


def check_memory(manifest: Manifest) -> None:
    """Raise TransientLoadError where this machine has not the memory to load the version now."""
    needed = _COPIES * sum(entry.size_bytes for entry in manifest.files.values())
    if needed > _SMALL_BYTES and needed > (available := psutil.virtual_memory().available):
        raise TransientLoadError(
            f"loading it takes about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are left"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was not to be had, by its type or, as native code does, by its words."""
    return (
        isinstance(error, MemoryError)
        or any(words in str(error) for words in _OUT_OF_MEMORY)
        or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
    )


def check_same_spaces(expected: PolicySignature, found: PolicySignature) -> None:
    """Raise ManifestError unless ``found`` answers to the same observations and actions as ``expected``.

    Recurrent state, masks and the optional outputs may differ: the network may change while the environment does not.
    """
    for what, wanted, there in (
        ("observation", expected.observation, found.observation),
        ("action", expected.action, found.action),
    ):
        if wanted != there:
            raise ManifestError(
                f"made for another environment: expected {what} {wanted}, found {there}; "
                "point the actor at the store of this environment's run"
            )


class ProbeVerifier:
    """Holds engines to the probe: at its own batch size and at the one in use, where its rows are repeated or cut.

    Where they are repeated, one call at the batch size in use says all. An engine is warm for that size afterwards.

    ``outputs`` are the positions in the version's signature of what the engines are to return.
    """

    def __init__(self, manifest: Manifest, probe: Probe, batch_size: int, *, values: bool = True) -> None:
        """``values``: whether the engines compute them. Raises ManifestError where the probe has no rows."""
        rows = probe.inputs[0].shape[0]
        if rows < 1:
            raise ManifestError("the probe has no rows, so nothing can be proved with it")
        promised = manifest.signature
        self._signature = promised if values else promised.without_value
        self.outputs = tuple(promised.outputs.index(spec) for spec in self._signature.outputs)
        self._tolerance = manifest.probe
        self._covers_all = batch_size >= rows
        row = np.arange(batch_size) % rows
        outputs = tuple(probe.outputs[position] for position in self.outputs)
        self._as_made = (probe.inputs, outputs)
        self._in_use = (_rows(probe.inputs, row), _rows(outputs, row))

    @property
    def probe_inputs(self) -> Sequence[np.ndarray]:
        """The probe's own inputs, read-only."""
        return self._as_made[0]

    @property
    def inputs(self) -> Sequence[np.ndarray]:
        """Plausible inputs at the batch size in use."""
        return self._in_use[0]

    def check(self, run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]) -> float:
        """The largest difference of what ``run`` computes from the probe. Raises ProbeMismatch for too large a one."""
        atol, rtol = self._tolerance.atol, self._tolerance.rtol
        cases = (self._in_use,) if self._covers_all else (self._as_made, self._in_use)
        return max(compare(outputs, run(inputs), self._signature, atol, rtol) for inputs, outputs in cases)


def _rows(arrays: Sequence[np.ndarray], row: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(array[row]) for array in arrays)
