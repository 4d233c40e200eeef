"""What publishing costs a learner: until the version is there, and what its update thread feels of it."""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from learner.export.policy_export import PolicyExporter
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.publishing.policy_publisher import PolicyPublisher
from scripts.benchmarks.prepared_versions import ENV_ID
from scripts.benchmarks.result import Result
from shared.policy.manifest import TrainingProgress
from shared.rollouts.rollout import Rollout, RolloutHeader, RolloutLayout
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore, Retention

PUBLICATIONS_PER_S = 10.0
_BLOCK_S = 1.0
_PUBLICATIONS = 20
_PATIENCE_S = 60.0


def measure_publishing_side(rounds: int, block_s: float = _BLOCK_S, publications: int = _PUBLICATIONS) -> list[Result]:
    """A request's time on the update thread, the time until it is committed, and updates with and without them."""
    environment = describe_environment(ENV_ID)
    config = LearnerConfig()
    learner = Learner(environment.leaves, environment.action, config)
    rollout = _made_up_rollout(RolloutLayout(learner.signature, config.rollout_length), config.batch_steps)
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
    how = f"MLP 64x64, TorchScript and ONNX, {publications} publications of what was just learned, one after another"
    how_ratio = f"mean update of {config.batch_steps} steps; {rounds} rounds of none, 10 publications a second, none"
    return [
        Result.of("publishing, on the update thread", requests_us, "us", how),
        Result.of("publishing, from the request to the commit", commits_ms, "ms", how),
        Result.of("update time with 10 publications a second over none", ratios, "", how_ratio),
    ]


def _publish(publisher: PolicyPublisher, learner: Learner, publications: int) -> tuple[list[float], list[float]]:
    requests_us, commits_ms = [], []
    for number in range(publications):
        began_s = time.perf_counter()
        publisher.publish(learner.policy, TrainingProgress(update=number))
        requests_us.append(1e6 * (time.perf_counter() - began_s))
        publisher.flush(_PATIENCE_S)
        commits_ms.append(1e3 * (time.perf_counter() - began_s))
    return requests_us, commits_ms


def _updates_ms(learner: Learner, rollout: Rollout, publisher: PolicyPublisher | None, block_s: float) -> float:
    """The mean time of an update, with a publication every tenth of a second where there is a ``publisher``."""
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


def _made_up_rollout(layout: RolloutLayout, batch_steps: int) -> Rollout:
    """Observations and actions drawn at random: an update takes as long as with real ones."""
    random = np.random.default_rng(0)
    header = RolloutHeader("benchmark", "nobody", 0, 0, "", 0, 0, 0.0)
    rollout = layout.allocate(batch_steps // layout.length, header)
    rollout.observation[0][...] = random.normal(0, 0.1, rollout.observation[0].shape)
    rollout.action[...] = random.integers(0, 2, rollout.action.shape)
    rollout.behaviour_log_prob[...] = np.log(0.5)
    rollout.reward[...] = 1
    return rollout
