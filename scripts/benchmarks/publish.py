"""``benchmark.py publish``: time from publishing to acting, and the cost of publishing for the learner."""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from msgspec.structs import replace
from rich.console import Console

from learner.export.policy_export import PolicyExporter
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.publishing.policy_publisher import PolicyPublisher
from scripts.benchmarks.common.prepared_versions import ENV_ID, LARGE, TEMPORARY_PREFIX, workspace
from scripts.benchmarks.common.processes import (
    STEP_S,
    ActorFleet,
    publish_and_wait,
    read_digest_and_copy_s,
    start_publisher,
)
from scripts.benchmarks.common.result import Result
from scripts.benchmarks.common.rounds import BenchmarkSettings
from scripts.benchmarks.publisher import measure_publisher
from shared.policy.manifest import TrainingProgress
from shared.rollouts.rollout import Rollout, RolloutHeader, RolloutLayout
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore, Retention

ACTORS = 4
_VERSIONS = 16
_LARGE_VERSIONS = 2
_PUBLICATIONS = 40  # in a round
_LARGE_PUBLICATIONS = 4  # in a round
_FIRST = 3
"""Reloads that allocate the memory of all later ones, and are a result of their own."""
_LARGE_PAUSE_S = 1.0  # until the publisher has synced and swept
_PUBLICATIONS_PER_S = 10.0
_COMMIT_TIMEOUT_S = 60.0


def measure_publish(settings: BenchmarkSettings, console: Console) -> list[Result]:
    """Return all results of this kind."""
    console.print("time until four actors act with a new version …")
    results = measure_small(settings.rounds, _PUBLICATIONS, pace_s=STEP_S)
    results += measure_small(2, _PUBLICATIONS, pace_s=0.0)
    console.print("the same with 100 MB of weights …")
    results += measure_large(settings.rounds * _LARGE_PUBLICATIONS, onnx_alone=True)
    results += measure_large(settings.rounds * _LARGE_PUBLICATIONS)
    console.print("cost of publishing for the learner …")
    results += measure_publishing_cost(settings.rounds)
    console.print("cost of Publisher for a loop …")
    return results + measure_publisher(settings.rounds)


def measure_small(rounds: int, publications: int, *, pace_s: float, actors: int = ACTORS) -> list[Result]:
    """Return the time from the rename to the first action of the last actor; it has a target if actors are paced."""
    random = np.random.default_rng(0)
    with (
        workspace(versions=_VERSIONS, change=0.1) as paths,
        start_publisher(paths.prepared, paths.store) as publisher,
        ActorFleet(paths.store, paths.logs, pace_s=pace_s) as fleet,
    ):
        fleet.grow(actors, publisher.call("publish").version)
        latencies_ms = np.zeros((rounds, publications))
        for place in np.ndindex(latencies_ms.shape):
            time.sleep(random.uniform(0.02, 0.06))  # a random phase of the actors' periodic work
            latencies_ms[place] = 1e3 * publish_and_wait(publisher, fleet)
    steps = f"steps of {1e3 * pace_s:g} ms" if pace_s else "steps without pause"
    what = f"rename to first action of all {actors} actors, {steps}"
    how = f"MLP 64x64, {latencies_ms.size} publications; min and max are those of {rounds} parts of the run"
    results = []
    for percentile, target in ((50.0, 15.0), (99.0, 50.0)):
        value = float(np.percentile(latencies_ms, percentile))
        parts = np.percentile(latencies_ms, percentile, axis=1)
        result = Result.of(f"{what}, p{percentile:g}", parts.tolist(), "ms", how, at_most=target if pace_s else None)
        results.append(replace(result, value=value, reached=value <= target if pace_s else None))
    return results


def measure_large(
    publications: int, hidden_sizes: tuple[int, ...] = LARGE, *, onnx_alone: bool = False
) -> list[Result]:
    """Return the time from the rename to the first action of one actor, over the minimum for a file of that size.

    It has a target for versions with ``onnx_alone``: the weights are their only large file.
    """
    with (
        workspace(versions=_LARGE_VERSIONS, change=0.1, hidden_sizes=hidden_sizes, onnx_alone=onnx_alone) as paths,
        start_publisher(paths.prepared, paths.store, keep_newest=2) as publisher,
        ActorFleet(paths.store, paths.logs, pace_s=STEP_S) as fleet,
    ):
        manifest = LocalPolicyStore(paths.prepared).open(0).manifest
        weights_mb = manifest.files[manifest.weights].size_bytes / 1e6
        fleet.grow(1, publisher.call("publish").version)
        latencies_s, floors_s = [], []
        for _ in range(_FIRST + publications):
            time.sleep(_LARGE_PAUSE_S)
            latencies_s.append(publish_and_wait(publisher, fleet))
            floors_s.append(read_digest_and_copy_s(LocalPolicyStore(paths.store)))
    name = f"{weights_mb:.0f} MB" if weights_mb >= 1 else f"{1e3 * weights_mb:.0f} kB"
    how = (
        f"MLP of {name}, one actor, {publications} publications after its first {_FIRST}, each followed by one read, "
        "digest and copy of its weights"
    )
    latencies_ms, floors_ms = 1e3 * np.array(latencies_s), 1e3 * np.array(floors_s)
    ratios = (latencies_ms / floors_ms)[_FIRST:].tolist()
    name += "" if onnx_alone else " and TorchScript"
    what = f"rename to first action, {name}"
    return [
        Result.of(f"{what}, over read + digest + copy", ratios, "", how, at_most=1.15 if onnx_alone else None),
        Result.of(what, latencies_ms[_FIRST:].tolist(), "ms", how),
        Result.of(f"{what}, first {_FIRST} of an actor", latencies_ms[:_FIRST].tolist(), "ms", how),
        Result.of(f"one read, one digest and one copy of {name}", floors_ms.tolist(), "ms", how),
    ]


def measure_publishing_cost(rounds: int, block_s: float = 1.0, publications: int = 20) -> list[Result]:
    """Return a request's time on the update thread, its time until the commit, and the slowdown of updates."""
    environment = describe_environment(ENV_ID)
    config = LearnerConfig()
    learner = Learner(environment.leaves, environment.action, config)
    rollout = _random_rollout(RolloutLayout(learner.signature, config.rollout_length), config.batch_steps)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX) as directory:
        publisher = PolicyPublisher(
            PolicyExporter(learner.policy, learner.signature),
            LocalPolicyStore(Path(directory)),
            run_id="benchmark",
            env_id=ENV_ID,
            retention=Retention(),
            synchronous=False,
        )
        try:
            requests_us, commits_ms = _publish(publisher, learner, publications)
            _updates_ms(learner, rollout, None, block_s)
            ratios = []
            for _ in range(rounds):
                turns = (None, publisher, None)
                before, publishing, after = (_updates_ms(learner, rollout, each, block_s) for each in turns)
                ratios.append(publishing * 2 / (before + after))
        finally:
            publisher.close()
    how = f"MLP 64x64, TorchScript and ONNX, {publications} publications, one after another"
    how_ratio = f"mean update of {config.batch_steps} steps; {rounds} rounds: without, 10 publications/s, without"
    return [
        Result.of("publishing, on the update thread", requests_us, "us", how),
        Result.of("publishing, from the request to the commit", commits_ms, "ms", how),
        Result.of("update time at 10 publications/s over none", ratios, "", how_ratio),
    ]


def _publish(publisher: PolicyPublisher, learner: Learner, publications: int) -> tuple[list[float], list[float]]:
    requests_us, commits_ms = [], []
    for number in range(publications):
        began_s = time.perf_counter()
        publisher.publish(learner.policy, TrainingProgress(update=number))
        requests_us.append(1e6 * (time.perf_counter() - began_s))
        publisher.flush(_COMMIT_TIMEOUT_S)
        commits_ms.append(1e3 * (time.perf_counter() - began_s))
    return requests_us, commits_ms


def _updates_ms(learner: Learner, rollout: Rollout, publisher: PolicyPublisher | None, block_s: float) -> float:
    """Return the mean time of an update, with 10 publications per second if there is a ``publisher``."""
    times_ms = []
    began_s = next_s = time.perf_counter()
    while (now_s := time.perf_counter()) < began_s + block_s:
        if publisher is not None and now_s >= next_s:
            publisher.publish(learner.policy, TrainingProgress())
            next_s += 1 / _PUBLICATIONS_PER_S
        learner.update([rollout])
        times_ms.append(1e3 * (time.perf_counter() - now_s))
    return statistics.fmean(times_ms)


def _random_rollout(layout: RolloutLayout, batch_steps: int) -> Rollout:
    """Return a rollout of random observations and actions; an update takes as long as with real ones."""
    random = np.random.default_rng(0)
    header = RolloutHeader("benchmark", "actor-0", 0, 0, "", 0, 0, 0.0)
    rollout = layout.allocate(batch_steps // layout.length, header)
    rollout.observation[0][...] = random.normal(0, 0.1, rollout.observation[0].shape)
    rollout.action[...] = random.integers(0, 2, rollout.action.shape)
    rollout.behaviour_log_prob[...] = np.log(0.5)
    rollout.reward[...] = 1
    return rollout
