"""Checks of a version before any engine runs it: its signature, its spaces and the memory that it needs."""

import psutil  # type: ignore[import-untyped]

from shared.errors import ManifestError, TransientLoadError
from shared.policy.manifest import Manifest
from shared.policy.signature import PolicySignature, Role

_COPIES = 3  # the bytes, the engine's copy and the standby's copy
_SMALL_BYTES = 2**28
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "Cannot allocate")
_INPUT_ORDER: tuple[Role, ...] = ("observation", "state", "action_mask", "noise")
_NUMBERS: tuple[Role, ...] = ("log_prob", "value")
_REAL = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)
_AT_MOST_ONCE: tuple[Role, ...] = ("action_mask", "noise", "env_action", "log_prob", "value")


def check_signature(signature: PolicySignature) -> None:
    """Raise ManifestError unless an agent can call programs of ``signature``."""
    if signature.action.kind == "none":
        raise ManifestError("use load_policy: this version is a module, not a policy")
    inputs, outputs = signature.inputs, signature.outputs
    roles = [spec.role for spec in (*inputs, *outputs)]
    if roles.count("action") != 1 or any(roles.count(role) > 1 for role in _AT_MOST_ONCE):
        raise ManifestError(f"expected one action and at most one of {_AT_MOST_ONCE}; found {roles}")
    _check_dtypes(signature)
    leaves = [(leaf.path, leaf.dtype, leaf.shape) for leaf in signature.observation]
    observation = [(spec.path, spec.dtype, spec.shape) for spec in inputs if spec.role == "observation"]
    if not leaves or leaves != observation:
        raise ManifestError(f"expected the leaves of the observation as inputs, {leaves}; found {observation}")
    in_order = [_INPUT_ORDER.index(spec.role) if spec.role in _INPUT_ORDER else -1 for spec in inputs]
    if in_order != sorted(in_order) or -1 in in_order:
        raise ManifestError(f"expected inputs in the order {_INPUT_ORDER}; found {[spec.role for spec in inputs]}")
    if signature.state != tuple(outputs[len(outputs) - len(signature.state) :]):
        raise ManifestError("the last outputs must be the recurrent state: same names, shapes, dtypes and order")
    action = signature.action
    of_inputs = {"noise": (action.noise_shape, "float32"), "action_mask": (action.mask_shape, "bool")}
    of_outputs = {"action": (action.shape, action.sample_dtype), "env_action": (action.shape, action.dtype)}
    for specs, expected in ((outputs, of_outputs), (inputs, of_inputs)):
        for spec in specs:
            shape, dtype = expected.get(spec.role, (spec.shape, spec.dtype))
            if (spec.shape, spec.dtype) != (shape, dtype):
                raise ManifestError(
                    f"{spec.role}: expected {dtype} {shape} for this action space, found {spec.dtype} {spec.shape}"
                )


def _check_dtypes(signature: PolicySignature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in _REAL or (spec.role in _NUMBERS and (spec.shape, spec.dtype[:5]) != ((), "float")):
            expected = "one float for each row" if spec.role in _NUMBERS else "real numbers or bool"
            raise ManifestError(f"{spec.name}: expected {expected}, found {spec.dtype} {spec.shape}")


def check_same_spaces(expected: PolicySignature, found: PolicySignature) -> None:
    """Raise ManifestError unless both signatures are for one environment; the network may change."""
    for what, wanted, there in (
        ("observation", expected.observation, found.observation),
        ("action", expected.action, found.action),
    ):
        if wanted != there:
            raise ManifestError(
                f"made for another environment: expected {what} {wanted}, found {there}; "
                "point the actor at the store of this environment's run"
            )


def check_memory(manifest: Manifest) -> None:
    """Raise TransientLoadError when the machine has too little free memory to load the version now."""
    needed = _COPIES * sum(entry.size_bytes for entry in manifest.files.values())
    if needed > _SMALL_BYTES and needed > (available := psutil.virtual_memory().available):
        raise TransientLoadError(
            f"loading it takes about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are left"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return True when ``error`` or one before it reports a failed allocation, by type or by native code's message.

    Code that cleans up after a failed allocation may fail itself, and its error then hides the first.
    """
    before = error.__cause__ or error.__context__
    return (
        isinstance(error, MemoryError)
        or any(words in str(error) for words in _OUT_OF_MEMORY)
        or (before is not None and is_out_of_memory(before))
    )
