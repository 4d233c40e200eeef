"""Publish-to-acting against the number of actors: from the rename to the first action of the last of them."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from scripts.benchmarks.growth import Budget, Growth
from scripts.benchmarks.prepared_versions import prepare_versions
from scripts.benchmarks.publish_to_acting import ActorFleet
from scripts.benchmarks.publishing_process import start_publisher

STEP_S = 1e-2  # 64 actors then take half of a core for acting
_TIMES = 12
_BUDGET_S = 120.0
_ACTOR_MB = 150


def grow_actors(counts: Sequence[int], console: Console) -> Growth:
    """Counts ascend; those for which there is no memory, or no time, are left out, with a line."""
    budget = Budget(_BUDGET_S)
    random = np.random.default_rng(0)
    growth = Growth("From rename to first action", "actors", f"MLP 64x64, ONNX, steps of {1e3 * STEP_S:g} ms")
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, logs = (Path(directory) / name for name in ("prepared", "store", "logs"))
        prepare_versions(prepared, versions=8, change=0.1)
        with start_publisher(prepared, store) as publisher, ActorFleet(store, logs, pace_s=STEP_S) as fleet:
            before = 0
            for count in counts:
                if psutil.virtual_memory().available / 1e6 < _ACTOR_MB * (count - before):
                    console.print(f"{count} actors are left out: there is no memory for them", highlight=False)
                    break
                if (lack := budget.lack(count / before if before else 1)) is not None:
                    console.print(f"{count} actors are left out: {lack}", highlight=False)
                    break
                fleet.grow(count, publisher.call("publish").version)
                before = count
                first_ms, last_ms = [], []
                for _ in range(_TIMES):
                    time.sleep(random.uniform(0.05, 0.1))
                    published = publisher.call("publish")
                    firsts = [first.acted_s - published.renaming_s for first in fleet.first_actions(published.version)]
                    first_ms.append(1e3 * float(np.median(firsts)))
                    last_ms.append(1e3 * max(firsts))
                growth.add("the last actor", count, last_ms)
                growth.add("the actor in the middle", count, first_ms)
                console.print(f"  {count} actors: {np.median(last_ms):.1f} ms", highlight=False)
    return growth
