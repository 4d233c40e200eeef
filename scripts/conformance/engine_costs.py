"""``python scripts/conformance/engine_costs.py``: times of a load and of a call on each engine, as a table."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from scripts.conformance.engine_agreement import export_policy, load_engine
from shared.engines.engine import Engine, EngineKind
from shared.engines.load import PROGRAM_OF, Read
from shared.errors import PolicyLoadError
from shared.policy.manifest import Manifest
from shared.policy.probe import make_inputs
from shared.policy.spaces import action_spec, observation_leaves

BATCH_SIZES = (1, 64)
_LOADS, _ROUNDS = 5, 200
_ROUND_S = 1e-3  # short enough that other processes leave some rounds alone

_VECTOR = spaces.Box(-1, 1, (8,))
NETWORKS: dict[str, tuple[spaces.Space[Any], NetworkConfig]] = {
    "MLP 64x64": (_VECTOR, NetworkConfig()),
    "LSTM 64": (_VECTOR, NetworkConfig("lstm")),
    "image 84x84x4": (spaces.Box(0, 255, (84, 84, 4), np.uint8), NetworkConfig()),
}


@dataclass(frozen=True)
class Cost:
    """The fastest load of one engine in ms (None if unsupported), and the fastest calls in us by batch size."""

    load_ms: float | None
    call_us: dict[int, float]


def measure(observation: spaces.Space[Any], network: NetworkConfig) -> Iterator[tuple[EngineKind, Cost]]:
    """Yield the costs of each engine. The export compiles for tens of seconds."""
    torch.manual_seed(0)
    policy = ActingPolicy(observation_leaves(observation), action_spec(spaces.Discrete(6)), network)
    manifest, read = export_policy(policy)
    for kind in PROGRAM_OF:
        if kind != "compile":  # it compiles again in each process
            yield kind, _cost(kind, manifest, read)


def _cost(kind: EngineKind, manifest: Manifest, read: Read) -> Cost:
    try:
        engine = load_engine(kind, manifest, read)
    except PolicyLoadError:
        return Cost(None, {})
    load_s = min(_timed(partial(load_engine, kind, manifest, read)) for _ in range(_LOADS))
    calls = {}
    for rows in BATCH_SIZES:
        inputs = make_inputs(manifest.signature, rows, seed=0)
        engine.run(inputs)
        once_s = min(_timed(partial(engine.run, inputs)) for _ in range(5))
        often = max(1, int(_ROUND_S / once_s))
        rounds = (_timed(partial(_run_often, engine, inputs, often)) for _ in range(_ROUNDS))
        calls[rows] = min(rounds) / often * 1e6
    return Cost(load_s * 1e3, calls)


def _run_often(engine: Engine, inputs: Sequence[np.ndarray], times: int) -> None:
    for _ in range(times):
        engine.run(inputs)


def _timed(run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def main() -> int:
    """Print a table with a row for each network and engine: the fastest load, and the fastest calls by batch size."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"| network | engine | load, ms | {' | '.join(f'call of {size}, us' for size in BATCH_SIZES)} |")
    print("| --- | --- | --- |" + " --- |" * len(BATCH_SIZES), flush=True)
    for name, (observation, network) in NETWORKS.items():
        for kind, cost in measure(observation, network):
            if cost.load_ms is not None:
                calls = " | ".join(f"{cost.call_us[size]:.3g}" for size in BATCH_SIZES)
                print(f"| {name} | {kind} | {cost.load_ms:.2g} | {calls} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
