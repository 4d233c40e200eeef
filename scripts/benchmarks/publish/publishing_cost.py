"""Cost of publishing for a learner: time until the commit, time on the update thread, and slower updates."""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from learner.export.policy_export import PolicyExporter
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.publishing.policy_publisher import PolicyPublisher
from scripts.benchmarks.common.prepared_versions import ENV_ID
from scripts.benchmarks.common.result import Result
from shared.policy.manifest import TrainingProgress
from shared.rollouts.rollout import Rollout, RolloutHeader, RolloutLayout
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore, Retention

PUBLICATIONS_PER_S = 10.0
_BLOCK_S = 1.0
_PUBLICATIONS = 20
_TIMEOUT_S = 60.0


def measure_publishing_cost(rounds: int, block_s: float = _BLOCK_S, publications: int = _PUBLICATIONS) -> list[Result]:
    """Return a request's time on the update thread, its time until the commit, and the slowdown of updates."""
    environment = describe_environment(ENV_ID)
    config = LearnerConfig()
    learner = Learner(environment.leaves, environment.action, config)
    rollout = _random_rollout(RolloutLayout(learner.signature, config.rollout_length), config.batch_steps)
    with TemporaryDirectory(prefix="rl-hotswap-benchmark-") as directory:
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
                before = _updates_ms(learner, rollout, None, block_s)
                publishing = _updates_ms(learner, rollout, publisher, block_s)
                after = _updates_ms(learner, rollout, None, block_s)
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
        publisher.flush(_TIMEOUT_S)
        commits_ms.append(1e3 * (time.perf_counter() - began_s))
    return requests_us, commits_ms


def _updates_ms(learner: Learner, rollout: Rollout, publisher: PolicyPublisher | None, block_s: float) -> float:
    """Return the mean time of an update, with 10 publications per second if there is a ``publisher``."""
    times_ms = []
    began_s = time.perf_counter()
    next_s = began_s
    while (now_s := time.perf_counter()) < began_s + block_s:
        if publisher is not None and now_s >= next_s:
            publisher.publish(learner.policy, TrainingProgress())
            next_s += 1 / PUBLICATIONS_PER_S
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
