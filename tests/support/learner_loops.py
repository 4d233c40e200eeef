"""Small learner loops of real parts: one policy, an in-process transport, a store in a directory."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from learner.export.policy_export import PolicyExporter
from learner.ppo.learner import Learner
from learner.ppo.learner_config import LearnerConfig
from learner.publishing.policy_publisher import PolicyPublisher
from learner.training.checkpoint import CheckpointStore
from learner.training.learner_loop import LearnerLoop, LoopHooks, LoopOptions
from shared.rollouts.rollout import Rollout
from shared.store.policy_store import LocalPolicyStore, Retention
from shared.transport.in_process import InProcessReceiver, InProcessSender
from tests.support.rollout_examples import RUN_ID, example_rollout, header, plain_layout
from tests.support.waiting import PATIENCE_S, until

LAYOUT = plain_layout(4)
STEPS = 8  # of one rollout: 4 of each of two environments

_CONFIG = LearnerConfig(hidden_sizes=(8,), epochs=1, minibatch_size=8)


def small_learner() -> Learner:
    return Learner(LAYOUT.signature.observation, LAYOUT.signature.action, _CONFIG)


@cache
def _exporter() -> PolicyExporter:
    learner = small_learner()
    return PolicyExporter(learner.policy, learner.signature, onnx=False)


def rollout(version: int = 0, seed: int = 0) -> Rollout:
    """Return a rollout of two environments without reset steps."""
    one = example_rollout(LAYOUT, 2, version=version, seed=seed)
    one.valid[:] = True
    return one


class LateActor(InProcessReceiver):
    """Receiver that gives example rollouts the digest of their version, as published; other digests are kept."""

    def __init__(self, store: LocalPolicyStore, *, synchronous: bool) -> None:
        super().__init__(LAYOUT, RUN_ID, synchronous=synchronous)
        self._store = store
        self._digests: dict[int, str] = {}

    def receive(self, timeout_s: float) -> Rollout | None:
        one = super().receive(timeout_s)
        if one is None or one.header.digest != header().digest:
            return one
        version = one.header.version
        if version not in self._digests:
            until(lambda: version in self._store.versions())
            self._digests[version] = self._store.open(version).manifest.digest
        return replace(one, header=msgspec.structs.replace(one.header, digest=self._digests[version]))


class LoopRun:
    """One loop and its parts. ``settings`` are those of ``LoopOptions``; ``after_update`` gets each update's number."""

    def __init__(
        self,
        directory: Path,
        *,
        sync: bool = False,
        begin_epoch: Callable[[int], None] | None = None,
        store: LocalPolicyStore | None = None,
        synchronous: bool = True,
        **settings: Any,
    ) -> None:
        self.store = store or LocalPolicyStore(directory / "policies", fsync=False)
        self.checkpoints = CheckpointStore(directory / "checkpoints")
        self.receiver = LateActor(self.store, synchronous=sync)
        self.publisher = PolicyPublisher(
            _exporter(),
            self.store,
            run_id=RUN_ID,
            env_id=None,
            retention=Retention(keep_newest=1000),
            synchronous=synchronous,
        )
        self.after_update: Callable[[int], None] = lambda _update: None
        self.stop_requested = False
        self.loop = LearnerLoop(
            small_learner(),
            self.receiver,
            self.publisher,
            self.checkpoints,
            options=LoopOptions(**{"batch_steps": STEPS, "max_lag": 100, "max_seconds": PATIENCE_S} | settings),
            hooks=LoopHooks(
                lambda loop, _metrics: self.after_update(loop.counters.updates),
                lambda: self.stop_requested,
                begin_epoch,
            ),
        )

    def send(self, *rollouts: Rollout) -> None:
        """Queue rollouts for the learner, from a new actor."""
        sender = InProcessSender(self.receiver, f"actor-{self.receiver.live_senders}", window=len(rollouts))
        for one in rollouts:
            assert sender.send(one)

    def send_many(self, count: int) -> None:
        self.send(*(rollout(seed=seed) for seed in range(count)))

    def published_updates(self) -> list[int]:
        """Return the updates of the published versions."""
        progress = [self.store.open(version).manifest.training for version in self.store.versions()]
        return [one.update for one in progress if one is not None]
