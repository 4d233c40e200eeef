"""The learner's loop: receive, update, publish, checkpoint, until there is a reason to stop.

It knows nothing of processes: the receiver may be a socket or a worker in the same process, and publishing may be on a
thread or on the spot. So the asynchronous cluster and the one-process run are the same loop.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from loguru import logger

from learner.ppo.learner import Learner, UpdateMetrics
from learner.publishing.error_throttle import ErrorThrottle
from learner.publishing.policy_publisher import PolicyPublisher
from learner.training.checkpoint import CheckpointStore
from learner.training.outcome import Outcome
from learner.training.schedule import Schedule
from learner.training.training_clock import TrainingClock
from learner.training.training_statistics import EpisodeWindow, LoopCounters
from shared.errors import CheckpointError
from shared.policy.manifest import TrainingProgress
from shared.rollouts.rollout import Rollout
from shared.transport.transport import RolloutReceiver

_RECEIVE_TIMEOUT_S = 0.2
_PUBLISH_PATIENCE_S = 1.0  # a store that hangs must not hold up training


@dataclass(frozen=True)
class StoppingRule:
    """When training is over; None is never."""

    target_return: float | None
    total_steps: int | None
    max_seconds: float | None


class LoopObserver(Protocol):
    """Who wants to know how it goes: the progress file and TensorBoard."""

    def after_update(self, loop: "LearnerLoop", metrics: UpdateMetrics) -> None: ...


class LearnerLoop:
    """Owns the counters of one training and the order in which things happen."""

    def __init__(
        self,
        learner: Learner,
        receiver: RolloutReceiver,
        publisher: PolicyPublisher,
        checkpoints: CheckpointStore,
        *,
        batch_steps: int,
        max_lag: int,
        stopping: StoppingRule,
        publishing: Schedule,
        checkpointing: Schedule,
        observer: LoopObserver,
        stop_requested: Callable[[], bool],
        begin_epoch: Callable[[int], None] | None = None,
    ) -> None:
        """``begin_epoch(n)`` is called after checkpoint ``n`` and when one is resumed: where actor and learner share a
        process it resets the environments, so that a resumed run sees what an uninterrupted one saw.
        """
        self.learner = learner
        self.receiver = receiver
        self.publisher = publisher
        self.counters = LoopCounters()
        self.episodes = EpisodeWindow()
        self.clock = TrainingClock()
        self.lag = 0
        self._acting_versions: dict[str, int] = {}
        self._checkpoints = checkpoints
        self._batch_steps = batch_steps
        self._max_lag = max_lag
        self._stopping = stopping
        self._publishing = publishing
        self._checkpointing = checkpointing
        self._checkpoint_outage = ErrorThrottle("writing checkpoints")
        self._store_answers = True
        self._observer = observer
        self._stop_requested = stop_requested
        self._begin_epoch = begin_epoch

    def run(self) -> Outcome:
        """Train until a reason to stop. The newest weights are then published and a checkpoint holds them.

        With ``begin_epoch`` the last checkpoint stays the last regular one: a resumed run computes the updates after it
        again, bit for bit, where an extra checkpoint would reset environments that an uninterrupted run did not reset.
        """
        if self.counters.checkpoints == 0:
            self.checkpoint()
        self._publish()
        if self._begin_epoch is not None:
            self._begin_epoch(self.counters.checkpoints)
        while (outcome := self._outcome()) is None:
            rollouts = self._gather()
            if rollouts:
                self._learn(rollouts)
        logger.info("{} after {} steps and {} updates", outcome.value, self.counters.env_steps, self.counters.updates)
        if not self._publishing.is_current(self.counters.updates):
            self._publish()
        if self._begin_epoch is None and not self._checkpointing.is_current(self.counters.updates):
            self.checkpoint()
        return outcome

    def _outcome(self) -> Outcome | None:
        if (broken_off := self._broken_off()) is not None:
            return broken_off
        rule = self._stopping
        if rule.target_return is not None and self.episodes.solved(rule.target_return):
            if self.counters.time_to_target_s is None:
                self.counters.time_to_target_s = self.clock.train_s
                self.counters.target_reached = rule.target_return
            return Outcome.TARGET_REACHED
        if rule.total_steps is not None and self.counters.env_steps >= rule.total_steps:
            return Outcome.STEP_LIMIT
        return None

    def _broken_off(self) -> Outcome | None:
        """A reason to stop at once, without learning from what has already come."""
        if self._stop_requested():
            return Outcome.INTERRUPTED
        limit_s = self._stopping.max_seconds
        return Outcome.TIME_LIMIT if limit_s is not None and self.clock.session_s >= limit_s else None

    def _gather(self) -> list[Rollout]:
        """Enough fresh rollouts for one update, or none where there is a reason to stop at once."""
        rollouts: list[Rollout] = []
        slots = 0
        while slots < self._batch_steps:
            if self._broken_off() is not None:
                return []
            rollout = self.receiver.receive(_RECEIVE_TIMEOUT_S)
            if rollout is None:
                continue
            if (fault := self.publisher.disowns(rollout.header.version, rollout.header.digest)) is not None:
                self.receiver.count_invalid(rollout, fault)
            elif self._count(rollout) > self._max_lag:
                self.receiver.count_stale(rollout)
            else:
                rollouts.append(rollout)
                slots += rollout.length * rollout.batch_size
            if self.receiver.synchronous and slots < self._batch_steps:
                self.receiver.resume_senders(self.publisher.latest_version)
        return rollouts

    def _count(self, rollout: Rollout) -> int:
        """Take note of what was acted; its lag, in versions."""
        self.clock.first_step_at(rollout.header.began_unix_s)
        self.counters.env_steps += rollout.env_steps
        self.episodes.add(rollout.header.episodes)
        acting = self._acting_versions.get(rollout.header.actor_id)
        if acting is not None and acting != rollout.header.version:
            self.counters.reloads += 1
        self._acting_versions[rollout.header.actor_id] = rollout.header.version
        self.lag = max(0, (self.publisher.latest_version or 0) - rollout.header.version)
        return self.lag

    def _learn(self, rollouts: list[Rollout]) -> None:
        metrics = self.learner.update(rollouts, should_stop=self._stop_requested)
        for rollout in rollouts:
            self.receiver.count_learned(rollout)
        self.counters.updates += 1
        now_s = time.monotonic()
        if self._publishing.is_due(self.counters.updates, now_s):
            self._publish()
        if self.receiver.synchronous:
            # Nothing waits for this thread meanwhile, and actors had better act with what it learned. A store that has
            # let one update wait in vain lets no other wait until it answers.
            self._store_answers = self.publisher.flush(_PUBLISH_PATIENCE_S if self._store_answers else 0.0)
            self.receiver.resume_senders(self.publisher.latest_version)
        self._observer.after_update(self, metrics)
        if self._checkpointing.is_due(self.counters.updates, now_s):
            self.checkpoint()
            if self._begin_epoch is not None:
                self._begin_epoch(self.counters.checkpoints)

    def _publish(self) -> None:
        self.publisher.publish(self.learner.policy, self.training_progress())
        self._publishing.happened(self.counters.updates, time.monotonic())

    def training_progress(self) -> TrainingProgress:
        """Where the training stands, as manifests tell it."""
        return TrainingProgress(
            self.counters.updates, self.counters.env_steps, self.clock.train_s, self.episodes.mean_return
        )

    def checkpoint(self) -> None:
        """Write everything that training needs to go on. What acts in this process is then published as well.

        One that can't be written is logged, and counts all the same: the next is tried when that is due, and a run that
        goes on from an older one begins the same epochs.
        """
        updates = self.counters.updates
        if self._begin_epoch is not None and self.counters.checkpoints and not self._publishing.is_current(updates):
            self._publish()
        self.counters.checkpoints += 1
        self.counters.published = self.publisher.published
        try:
            self._checkpoints.save(self.counters.checkpoints, self._state())
        except CheckpointError as error:
            self._checkpoint_outage.failed(error, "training continues, and the next checkpoint is tried")
        else:
            self._checkpoint_outage.worked()
        self._checkpointing.happened(updates, time.monotonic())

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "counters": msgspec.to_builtins(self.counters),
            "episodes": self.episodes.state(),
            "clock": self.clock.state(),
            "accounts": self.receiver.state(),
        }

    def resume(self) -> None:
        """Go on from the newest checkpoint that can be read. Raises CheckpointError where there is none."""
        _, state = self._checkpoints.load_newest()
        self.learner.load_state_dict(state["learner"])
        self.counters = msgspec.convert(state["counters"], LoopCounters)
        self.counters.forget_lower_target(self._stopping.target_return)
        self.publisher.resume(self.counters.published)
        self.episodes = EpisodeWindow.from_state(state["episodes"])
        self.clock.restore(state["clock"])
        self.receiver.restore(state["accounts"])
        now_s = time.monotonic()
        self._publishing.happened(self.counters.updates, now_s)
        self._checkpointing.happened(self.counters.updates, now_s)
        logger.info("resumed at update {} after {} steps", self.counters.updates, self.counters.env_steps)
