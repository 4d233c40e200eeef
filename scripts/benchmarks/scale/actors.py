"""Time from publishing to acting by number of actors: from the rename to the first action of the last actor."""

import time
from collections.abc import Sequence

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from scripts.benchmarks.common.actor_fleet import ActorFleet
from scripts.benchmarks.common.prepared_versions import workspace
from scripts.benchmarks.common.publishing_process import start_publisher
from scripts.benchmarks.scale.growth import Budget, Growth

STEP_S = 1e-2  # 64 actors then take half of a core for acting
_TIMES = 12
_BUDGET_S = 120.0
_ACTOR_MB = 150


def grow_actors(counts: Sequence[int], console: Console) -> Growth:
    """Measure ascending ``counts`` of actors; omit, with a line, those that exceed the memory or time available."""
    budget = Budget(_BUDGET_S)
    random = np.random.default_rng(0)
    growth = Growth("From rename to first action", "actors", f"MLP 64x64, ONNX, steps of {1e3 * STEP_S:g} ms")
    with (
        workspace(versions=8, change=0.1) as paths,
        start_publisher(paths.prepared, paths.store) as publisher,
        ActorFleet(paths.store, paths.logs, pace_s=STEP_S) as fleet,
    ):
        before = 0
        for count in counts:
            lack = budget.lack(count / before if before else 1)
            if psutil.virtual_memory().available / 1e6 < _ACTOR_MB * (count - before):
                lack = "not enough memory"
            if lack is not None:
                console.print(f"{count} actors omitted: {lack}", highlight=False)
                break
            fleet.grow(count, publisher.call("publish").version)
            before = count
            middle_ms, last_ms = [], []
            for _ in range(_TIMES):
                time.sleep(random.uniform(0.05, 0.1))
                published = publisher.call("publish")
                firsts = [first.acted_s - published.renaming_s for first in fleet.first_actions(published.version)]
                middle_ms.append(1e3 * float(np.median(firsts)))
                last_ms.append(1e3 * max(firsts))
            growth.add("last actor", count, last_ms)
            growth.add("median actor", count, middle_ms)
            console.print(f"  {count} actors: {np.median(last_ms):.1f} ms", highlight=False)
    return growth
