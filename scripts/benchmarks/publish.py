"""``benchmark.py publish``: how long it takes until a new version acts, and what publishing costs who publishes."""

import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from scripts.benchmarks.prepared_versions import LARGE, prepare_versions
from scripts.benchmarks.publish_to_acting import ActorFleet, publish_and_wait
from scripts.benchmarks.publishing_process import start_publisher
from scripts.benchmarks.publishing_side import measure_publishing_side
from scripts.benchmarks.result import Result
from scripts.benchmarks.settings import BenchmarkSettings
from shared.store.policy_store import LocalPolicyStore

ACTORS = 4
STEP_S = 1e-3
_VERSIONS = 16
_LARGE_VERSIONS = 2
_PUBLICATIONS = 40  # in a round
_LARGE_PUBLICATIONS = 4  # in a round
_FIRST = 3
"""An actor's first reloads find the memory that all later ones use again, and are told of by themselves."""
_LARGE_PAUSE_S = 1.0  # until the publisher has synced the one, and swept another


def measure_publish(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """All rows of this kind."""
    rows = []
    console.print("until four actors act with a new version …")
    rows += measure_small(settings.rounds, _PUBLICATIONS, pace_s=STEP_S)
    rows += measure_small(2, _PUBLICATIONS, pace_s=0.0)
    console.print("the same with 100 MB of weights …")
    rows += measure_large(settings.rounds * _LARGE_PUBLICATIONS, LARGE)
    console.print("what publishing costs the learner …")
    return rows + measure_publishing_side(settings.rounds)


def measure_small(rounds: int, publications: int, *, pace_s: float, actors: int = ACTORS) -> list[Result]:
    """From rename to the first action in the last of four actors; a target only where they pace their steps."""
    random = np.random.default_rng(0)
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, logs = (Path(directory) / name for name in ("prepared", "store", "logs"))
        prepare_versions(prepared, versions=_VERSIONS, change=0.1)
        with start_publisher(prepared, store) as publisher, ActorFleet(store, logs, pace_s=pace_s) as fleet:
            fleet.grow(actors, publisher.call("publish").version)
            latencies_ms = np.zeros((rounds, publications))
            for place in np.ndindex(latencies_ms.shape):
                time.sleep(random.uniform(0.02, 0.06))  # at any moment of what the actors do every so often
                latencies_ms[place] = 1e3 * publish_and_wait(publisher, fleet)
    steps = f"steps of {1e3 * pace_s:g} ms" if pace_s else "steps without pause"
    what = f"rename to first action by every one of {actors} actors, {steps}"
    how = f"MLP 64x64, {latencies_ms.size} publications; min and max are those of {rounds} parts of the run"
    rows = []
    for percentile, target in ((50.0, 15.0), (99.0, 50.0)):
        value = float(np.percentile(latencies_ms, percentile))
        parts = np.percentile(latencies_ms, percentile, axis=1)
        reached = value <= target if pace_s else None
        rows.append(
            Result(
                row=f"{what}, p{percentile:g}",
                value=value,
                target=target if pace_s else None,
                reached=reached,
                min=float(parts.min()),
                max=float(parts.max()),
                unit="ms",
                how=how,
            )
        )
    return rows


def measure_large(publications: int, hidden_sizes: tuple[int, ...] = LARGE) -> list[Result]:
    """From rename to the first action of one actor, over what nobody can do without for a file of that size."""
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
        prepared, store, logs = (Path(directory) / name for name in ("prepared", "store", "logs"))
        manifest = prepare_versions(prepared, versions=_LARGE_VERSIONS, change=0.1, hidden_sizes=hidden_sizes)
        weights_mb = manifest.files[manifest.weights].size_bytes / 1e6
        with (
            start_publisher(prepared, store, keep_newest=2) as publisher,
            ActorFleet(store, logs, pace_s=STEP_S) as fleet,
        ):
            fleet.grow(1, publisher.call("publish").version)
            latencies_s, floors_s = [], []
            for _ in range(_FIRST + publications):
                time.sleep(_LARGE_PAUSE_S)
                latencies_s.append(publish_and_wait(publisher, fleet))
                floors_s.append(read_hash_and_copy_s(LocalPolicyStore(store)))
    name = f"{weights_mb:.0f} MB" if weights_mb >= 1 else f"{1e3 * weights_mb:.0f} kB"
    how = (
        f"MLP of {name}, one actor, {publications} publications after its first {_FIRST}, each followed by one read, "
        "SHA-256 and copy"
    )
    latencies_ms, floors_ms = 1e3 * np.array(latencies_s), 1e3 * np.array(floors_s)
    ratios = (latencies_ms / floors_ms)[_FIRST:].tolist()
    what = f"rename to first action, {name}"
    return [
        Result.of(f"{what}, over read + SHA-256 + copy", ratios, "", how, at_most=1.5),
        Result.of(what, latencies_ms[_FIRST:].tolist(), "ms", how),
        Result.of(f"{what}, an actor's first {_FIRST}", latencies_ms[:_FIRST].tolist(), "ms", how),
        Result.of(f"one read, one SHA-256 and one copy of {name}", floors_ms.tolist(), "ms", how),
    ]


def read_hash_and_copy_s(store: LocalPolicyStore) -> float:
    """Seconds for one read, one SHA-256 and one copy of the newest version's weights.

    They go into memory that was used before: fresh pages take longer than the read, and nobody has to have them.
    """
    newest = store.newest()
    assert newest is not None
    files = store.open(newest)
    entry = files.manifest.files[files.manifest.weights]
    data, copy = np.ones(entry.size_bytes, np.uint8), np.ones(entry.size_bytes, np.uint8)
    with (Path(files.location) / files.manifest.weights).open("rb", buffering=0) as file:
        began_s = time.perf_counter()
        count = file.readinto(data.data)
        digest = sha256(data.data).hexdigest()
        np.copyto(copy, data)
        took_s = time.perf_counter() - began_s
    assert count == entry.size_bytes
    assert digest == entry.sha256
    return took_s
