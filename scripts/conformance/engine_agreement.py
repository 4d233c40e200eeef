"""``python scripts/conformance/engine_agreement.py``: engines against eager on a nested recurrent policy."""

import importlib.util
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces

from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import CLASS_PATH, ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.engines.engine import Engine, EngineKind
from shared.engines.importable import ImportablePolicy
from shared.engines.load import PROGRAM_OF, Read, load_program
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import WEIGHTS_FILE, Manifest, ProgramKind
from shared.policy.probe import make_inputs
from shared.policy.signature import PolicySignature
from shared.policy.spaces import action_spec, observation_leaves
from shared.store.version_files import describe_files

ATOL = RTOL = 1e-5
BATCH_SIZES = (1, 3, 64)
STEPS = 8

OBSERVATION = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (12, 12, 3), np.uint8),
        "speed": spaces.Box(-1, 1, (3,), np.float32),
        "arm": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2, 2), np.float32), spaces.Discrete(4))),
    }
)
ACTION = spaces.Discrete(6, start=2)
_Arrays = list[np.ndarray]
NETWORK = NetworkConfig("lstm", (32,), 16, normalize_observations=True)


@dataclass(frozen=True)
class Agreement:
    """The largest difference of an engine's floats from eager, also as a share of ``1e-5 + 1e-5 * |x|``."""

    kind: EngineKind
    largest_difference: float
    of_allowed: float
    is_equal: bool  # all other values, such as actions


def measure() -> list[Agreement]:
    """Export, load the engines that run images, and run each with its own state. This takes a minute for compiling."""
    policy = _policy()
    manifest, read = export_policy(policy)
    engines: dict[EngineKind, Engine] = {
        kind: load_engine(kind, manifest, read)
        for kind, program in PROGRAM_OF.items()
        if manifest.program(program) and kind != "llvm"  # it runs no images
    }
    found: dict[EngineKind, list[np.ndarray]] = {kind: [] for kind in engines}
    for batch_size in BATCH_SIZES:
        states = {kind: [np.zeros((batch_size, *s.shape), s.dtype) for s in policy.signature.state] for kind in engines}
        for step in range(STEPS):
            outputs = _step(engines, states, policy.signature, make_inputs(policy.signature, batch_size, seed=step))
            for kind, arrays in found.items():
                arrays.extend(outputs[kind])
    return [_agreement(kind, found["eager"], arrays) for kind, arrays in found.items() if kind != "eager"]


def _policy() -> ActingPolicy:
    """Return a policy with perturbed weights: the actions of an untrained one are almost equally likely."""
    torch.manual_seed(0)
    policy = ActingPolicy(observation_leaves(OBSERVATION), action_spec(ACTION), NETWORK, masked=True)
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, (*policy.parameters(), *policy.buffers())):
            tensor.add_(torch.randn(tensor.shape), alpha=0.1)
    return policy


def export_policy(policy: ActingPolicy) -> tuple[Manifest, Read]:
    """Return a version with a program for every engine that is installed, and its files. Takes a minute."""
    importable = ImportablePolicy(CLASS_PATH, policy.arguments)
    wanted: list[ProgramKind] = ["torchscript", "onnx", "aot"]
    if importlib.util.find_spec("executorch"):
        wanted.append("executorch")
    exporter = PolicyExporter(policy, policy.signature, importable=importable, programs=wanted)
    files, programs, probe = exporter.files(policy.state_dict())
    manifest = Manifest(
        version=0,
        run_id="agreement",
        env_id=None,
        created_unix_s=time.time(),
        signature=exporter.signature,
        programs=programs,
        files=describe_files(files),
        weights=WEIGHTS_FILE,
        probe=probe,
    )
    return manifest, files.__getitem__


def load_engine(kind: EngineKind, manifest: Manifest, read: Read) -> Engine:
    """Return the engine, with every permission."""
    trusted = (CLASS_PATH.partition(":")[0],)
    return load_program(kind, read, manifest, trust=ProgramTrust(native=True, modules=trusted))


def _step(
    engines: Mapping[EngineKind, Engine], states: dict[EngineKind, _Arrays], signature: PolicySignature, inputs: _Arrays
) -> dict[EngineKind, _Arrays]:
    first = next(i for i, spec in enumerate(signature.inputs) if spec.role == "state")
    n_states = len(signature.state)
    outputs = {}
    for kind, engine in engines.items():
        inputs[first : first + n_states] = states[kind]
        outputs[kind] = engine.run(inputs)
        states[kind] = outputs[kind][-n_states:]
    return outputs


def _agreement(kind: EngineKind, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Agreement:
    largest = of_allowed = 0.0
    is_equal = True
    for wanted, got in zip(expected, found, strict=True):
        if wanted.dtype.kind != "f":
            is_equal &= np.array_equal(wanted, got)
            continue
        difference = np.abs(np.subtract(got, wanted, dtype=np.float64))
        largest = max(largest, float(difference.max()))
        of_allowed = max(of_allowed, float((difference / (ATOL + RTOL * np.abs(wanted))).max()))
    return Agreement(kind, largest, of_allowed, is_equal)


def main() -> int:
    """Print a line for each engine and return 1 if one does not agree."""
    warnings.simplefilter("ignore")
    agreements = measure()
    for found in agreements:
        actions = "equal actions" if found.is_equal else "DIFFERENT ACTIONS"
        print(
            f"{found.kind}: largest difference {found.largest_difference:.1e}, {found.of_allowed:.1%} of the tolerance "
            f"{ATOL:g} + {RTOL:g} * |x|; {actions}"
        )
    print(f"{STEPS} steps at batch sizes {', '.join(map(str, BATCH_SIZES))}")
    return 0 if all(found.is_equal and found.of_allowed <= 1 for found in agreements) else 1


if __name__ == "__main__":
    raise SystemExit(main())
