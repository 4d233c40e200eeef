"""The loop of one training, in a cluster or in one process: receive, update, publish, write checkpoints."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from loguru import logger

from learner.ppo.learner import Learner, UpdateMetrics
from learner.publishing.error_throttle import ErrorThrottle
from learner.publishing.policy_publisher import PolicyPublisher
from learner.training.checkpoint import CheckpointStore
from learner.training.run_options import Outcome
from learner.training.training_statistics import EpisodeWindow, Interval, LoopCounters, Schedule, TrainingClock
from shared.errors import CheckpointError, StoreError, UpdateNotFinite
from shared.policy.manifest import TrainingProgress
from shared.rollouts.rollout import Rollout
from shared.transport.transport import RolloutReceiver

_EVERY_UPDATE = Interval(1)
_RECEIVE_TIMEOUT_S = 0.2
_FLUSH_TIMEOUT_S = 1.0  # a store that hangs must not stop training
_MOST_REJECTED = 10  # rollouts of one actor in a row
_MOST_SKIPPED = 10  # updates in a row


@dataclass(frozen=True)
class LoopOptions:
    """Settings of a ``LearnerLoop``, as the flags of the same names; None is never."""

    batch_steps: int
    max_lag: int
    target_return: float | None = None
    total_steps: int | None = None
    max_seconds: float | None = None
    publish_every: Interval = _EVERY_UPDATE
    checkpoint_every: Interval = _EVERY_UPDATE


@dataclass(frozen=True)
class LoopHooks:
    """Functions that a ``LearnerLoop`` calls: after each update; often, where True ends the training; for each epoch.

    ``after_update`` gets None instead of the metrics of an update that was skipped.

    ``begin_epoch(n)`` follows checkpoint ``n``, written or resumed. If actor and learner share a process, it resets the
    environments, so that a resumed run sees what an uninterrupted run saw.
    """

    after_update: Callable[["LearnerLoop", UpdateMetrics | None], None]
    stop_requested: Callable[[], bool]
    begin_epoch: Callable[[int], None] | None = None


class LearnerLoop:
    """One training: its counters, and the order of its actions."""

    def __init__(
        self,
        learner: Learner,
        receiver: RolloutReceiver,
        publisher: PolicyPublisher,
        checkpoints: CheckpointStore,
        *,
        options: LoopOptions,
        hooks: LoopHooks,
    ) -> None:
        self.learner = learner
        self.receiver = receiver
        self.publisher = publisher
        self.counters = LoopCounters()
        self.episodes = EpisodeWindow()
        self.clock = TrainingClock()
        self.lag = 0
        self._acting_versions: dict[str, int] = {}
        self._checkpoints = checkpoints
        self._options = options
        self._hooks = hooks
        self._publishing = Schedule(options.publish_every)
        self._checkpointing = Schedule(options.checkpoint_every)
        self._checkpoint_errors = ErrorThrottle("writing checkpoints")
        self._store_answers = True
        self._skipped_in_a_row = 0
        self._update_errors = ErrorThrottle("updating")
        self._returned_to: int | None = None

    def run(self) -> Outcome:
        """Train until there is a reason to stop; then publish the newest weights and write a checkpoint.

        With ``begin_epoch``, the end writes no checkpoint: a resumed run would reset environments at an additional one.
        """
        begin_epoch = self._hooks.begin_epoch
        if self.counters.checkpoints == 0:
            self.checkpoint()
        self.publish()
        if begin_epoch is not None:
            begin_epoch(self.counters.checkpoints)
        while (outcome := self._outcome()) is None:
            rollouts = self._gather()
            if rollouts:
                self._learn(rollouts)
        logger.info("{} after {} steps and {} updates", outcome.value, self.counters.env_steps, self.counters.updates)
        if not self._publishing.is_current(self.counters.updates):
            self.publish()
        if begin_epoch is None and not self._checkpointing.is_current(self.counters.updates):
            self.checkpoint()
        return outcome

    def _outcome(self) -> Outcome | None:
        if (immediate := self._immediate_outcome()) is not None:
            return immediate
        target, total_steps = self._options.target_return, self._options.total_steps
        if target is not None and self.episodes.solved(target):
            if self.counters.time_to_target_s is None:
                self.counters.time_to_target_s = self.clock.train_s
                self.counters.target_reached = target
            return Outcome.TARGET_REACHED
        if total_steps is not None and self.counters.env_steps >= total_steps:
            return Outcome.STEP_LIMIT
        return None

    def _immediate_outcome(self) -> Outcome | None:
        """Return a reason to stop without learning from the rollouts that have arrived."""
        if self._hooks.stop_requested():
            return Outcome.INTERRUPTED
        rejected = self.receiver.most_rejected
        if rejected is not None and rejected.count >= _MOST_REJECTED:
            return Outcome.ENVIRONMENT_FAILED
        limit_s = self._options.max_seconds
        return Outcome.TIME_LIMIT if limit_s is not None and self.clock.session_s >= limit_s else None

    def _gather(self) -> list[Rollout]:
        rollouts: list[Rollout] = []
        steps = 0
        while steps < self._options.batch_steps:
            if self._immediate_outcome() is not None:
                return []
            rollout = self.receiver.receive(_RECEIVE_TIMEOUT_S)
            if rollout is None:
                continue
            fault = find_version_fault(self.publisher, rollout.header.version, rollout.header.digest)
            if fault is not None:
                self.receiver.count_invalid(rollout, fault)
            elif self._count(rollout) > self._options.max_lag:
                self.receiver.count_stale(rollout)
            else:
                rollouts.append(rollout)
                steps += rollout.length * rollout.batch_size
            if self.receiver.synchronous and steps < self._options.batch_steps:
                self.receiver.resume_senders(self.publisher.latest_version)
        return rollouts

    def _count(self, rollout: Rollout) -> int:
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
        try:
            metrics = self.learner.update(rollouts, should_stop=self._hooks.stop_requested)
        except UpdateNotFinite as error:
            self._skip(rollouts, error)
            return
        for rollout in rollouts:
            self.receiver.count_learned(rollout)
        self.counters.updates += 1
        self._skipped_in_a_row, self._returned_to = 0, None
        self._update_errors.worked()
        now_s = time.monotonic()
        if self._publishing.is_due(self.counters.updates, now_s):
            self.publish()
        self._resume_senders()
        self._hooks.after_update(self, metrics)
        if self._checkpointing.is_due(self.counters.updates, now_s):
            self.checkpoint()
            if self._hooks.begin_epoch is not None:
                self._hooks.begin_epoch(self.counters.checkpoints)

    def _resume_senders(self) -> None:
        """Let synchronous senders, which wait for the new version, act again.

        After a timeout, updates do not wait again until the store answers.
        """
        if self.receiver.synchronous:
            self._store_answers = self.publisher.flush(_FLUSH_TIMEOUT_S if self._store_answers else 0.0)
            self.receiver.resume_senders(self.publisher.latest_version)

    def _skip(self, rollouts: list[Rollout], error: UpdateNotFinite) -> None:
        """Count an update that had no effect, and return to a checkpoint after several in a row."""
        for rollout in rollouts:
            self.receiver.count_invalid(rollout, f"its update was skipped: {error}")
        self.counters.skipped_updates += 1
        self._skipped_in_a_row += 1
        self._update_errors.failed(error, "the update is skipped, and the policy stays as it was")
        if self._skipped_in_a_row % _MOST_SKIPPED == 0:
            self._return_to_checkpoint(error)
        self._resume_senders()
        self._hooks.after_update(self, None)

    def _return_to_checkpoint(self, reason: UpdateNotFinite) -> None:
        """Return the policy to the newest checkpoint; if updates from there are skipped, too, to the one before."""
        try:
            step, state = self._checkpoints.load_newest(before=self._returned_to)
        except CheckpointError as error:
            self._returned_to = None  # begin again with the newest
            logger.error("policy cannot return to a checkpoint: {}", error)
            return
        env_steps, self._returned_to = self.learner.env_steps, step
        self.learner.load_state_dict(state["learner"])
        self.learner.env_steps = env_steps  # they were acted all the same
        skipped = self._skipped_in_a_row
        logger.error("policy returned to checkpoint {} skipped_updates={} reason={}", step, skipped, reason)
        self.publish()

    def publish(self) -> None:
        train_s, mean_return = self.clock.train_s, self.episodes.mean_return
        progress = TrainingProgress(self.counters.updates, self.counters.env_steps, train_s, mean_return)
        self.publisher.publish(self.learner.policy, progress)
        self._publishing.happened(self.counters.updates, time.monotonic())

    def checkpoint(self) -> None:
        """Write a checkpoint, or log why not; with ``begin_epoch``, also publish, for actors to act with its weights.

        A checkpoint that cannot be written is counted, so a run that resumes from an older one begins the same epochs.
        """
        updates = self.counters.updates
        if self._hooks.begin_epoch and self.counters.checkpoints and not self._publishing.is_current(updates):
            self.publish()
        self.counters.checkpoints += 1
        self.counters.published = self.publisher.published
        try:
            self._checkpoints.save(self.counters.checkpoints, self._state())
        except CheckpointError as error:
            self._checkpoint_errors.failed(error, "training continues and tries again later")
        else:
            self._checkpoint_errors.worked()
        self._checkpointing.happened(updates, time.monotonic())

    def _state(self) -> dict[str, object]:
        return {
            "learner": self.learner.state_dict(),
            "counters": msgspec.to_builtins(self.counters),
            "episodes": self.episodes.state(),
            "clock": self.clock.state(),
            "accounts": self.receiver.state(),
        }

    def resume(self) -> None:
        """Continue from the newest readable checkpoint. Raises CheckpointError if there is none."""
        _, state = self._checkpoints.load_newest()
        self.learner.load_state_dict(state["learner"])
        self.counters = msgspec.convert(state["counters"], LoopCounters)
        self.counters.forget_lower_target(self._options.target_return)
        self.publisher.resume(self.counters.published)
        self.episodes = EpisodeWindow.from_state(state["episodes"])
        self.clock.restore(state["clock"])
        self.receiver.restore(state["accounts"])
        now_s = time.monotonic()
        self._publishing.happened(self.counters.updates, now_s)
        self._checkpointing.happened(self.counters.updates, now_s)
        logger.info("resumed at update {} after {} steps", self.counters.updates, self.counters.env_steps)


def find_version_fault(publisher: PolicyPublisher, version: int, digest: str) -> str | None:
    """Return why no actor can have acted with this version and digest, or None; accept what the publisher forgot."""
    published = publisher.published_digest(version)
    if published is not None:
        return None if published == digest else f"version {version} has digest {published}, found {digest}"
    if publisher.latest_version is not None and version <= publisher.latest_version:
        return None  # published before this process began, or its digest was dropped
    try:
        newest = publisher.newest_stored_version()  # includes those of earlier learners, and one being counted
    except StoreError as error:
        logger.warning("cannot look up a policy version version={}: {}", version, error)
        return None
    return None if newest is None or version <= newest else f"version {version} was never published"
