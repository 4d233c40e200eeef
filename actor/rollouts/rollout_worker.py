"""The acting loop: reset, act, step, record.

Exactly one policy version acts in a rollout. The loop does nothing that can be done once for a whole rollout.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import numpy as np
from gymnasium.vector import AutoresetMode
from loguru import logger

from actor.acting.policy_call import Decision
from actor.environments.environments import BoolArray, Environments, Finals
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import EpisodeTracker, FinishedEpisode
from shared.errors import EnvironmentFailed
from shared.rollouts.rollout import Rollout, RolloutHeader, RolloutLayout
from shared.transport.transport import RolloutSender

_EPOCH_STEPS = 2**32  # between the noise offsets of two epochs; no epoch is longer
_ROOM_TIMEOUT_S = 0.2
_VERSION_TIMEOUT_S = 0.5  # the version is published already; if it takes longer, it may have failed


class ActingAgent(Protocol):
    """The part of ``actor.agent.Agent`` that a rollout worker uses."""

    noise_offset: int

    @property
    def policy(self) -> LoadedPolicy: ...
    @property
    def state(self) -> Sequence[np.ndarray]: ...
    @property
    def noise_seed(self) -> int: ...
    def reset(self, rows: np.ndarray | None = None) -> None: ...
    def adopt(self) -> LoadedPolicy: ...
    def wait_for_version(self, version: int, timeout_s: float) -> bool: ...
    def decide(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None) -> Decision: ...


@dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """The names in a worker's rollouts, and the seed of the environments' resets.

    With ``cut_at_episode_end`` a rollout ends with an episode: the next begins with the newest policy. None is sent.
    """

    run_id: str
    actor_id: str
    seed: int
    cut_at_episode_end: bool = False


class RolloutWorker:
    """Steps environments and records rollouts of ``layout``. ``finished`` are the episodes that ended in the last."""

    def __init__(
        self,
        agent: ActingAgent,
        environments: Environments,
        layout: RolloutLayout,
        options: RolloutOptions,
        sender: RolloutSender | None = None,
    ) -> None:
        self.finished: Sequence[FinishedEpisode] = ()
        self.interrupted = False
        self._agent = agent
        self._environments = environments
        self._run_layout = layout
        self._layout = layout
        self._options = options
        self._cut = options.cut_at_episode_end
        self._sender = sender
        self._next_step = environments.autoreset_mode is AutoresetMode.NEXT_STEP
        self._tracker = EpisodeTracker(environments.num_envs)
        self._policy: LoadedPolicy | None = None
        self._steps = 0  # of the batch, before the rollout in progress
        self._observation: Sequence[np.ndarray] = ()  # empty before the first epoch
        self._begins: BoolArray = np.ones(environments.num_envs, np.bool_)
        self._resets: BoolArray = np.zeros(environments.num_envs, np.bool_)  # rows that the next step only resets
        environments.check_signature(layout.signature)

    def begin_epoch(self, number: int) -> None:
        """Begin an episode in every environment, with seeds and noise that depend only on the seed and ``number``.

        A resumed training then sees the same steps as an uninterrupted one. Waits for a policy as ``Agent.reset`` does.
        """
        epoch_seed = np.random.SeedSequence([self._options.seed, number]).generate_state(1)[0]
        self._observation = self._environments.reset(int(epoch_seed) >> 1)  # some environments accept only 31 bits
        self._environments.check_signature(self._layout.signature)
        self._begins = np.ones_like(self._begins)
        self._resets = np.zeros_like(self._resets)
        self._tracker.restart()
        self._agent.reset()
        self._agent.noise_offset = number * _EPOCH_STEPS

    def interrupt(self) -> None:
        """Stop ``run`` and ``collect`` after the current step. Signal handlers and other threads may call this."""
        self.interrupted = True

    def run(self, stop: Callable[[], bool], report: Callable[[], None]) -> None:
        """Collect and send rollouts until ``stop()`` is true or ``interrupt`` is called; call ``report`` after each."""
        while not stop() and not self.interrupted:
            if (sender := self._sender) is not None:
                if not sender.wait_for_room(_ROOM_TIMEOUT_S):
                    continue
                if sender.wanted_version is not None:
                    self._agent.wait_for_version(sender.wanted_version, _VERSION_TIMEOUT_S)
            rollout = self.collect()
            if rollout is None:
                return
            self.send(rollout)
            report()

    def collect(self) -> Rollout | None:
        """Return one rollout, acted by the version that is ready now, or None if ``interrupt`` was called meanwhile."""
        if not self._observation:
            self.begin_epoch(0)
        rollout, finals = self._prepare(self._adopt()), list[tuple[int, Finals]]()
        steps = self._act(rollout, finals)
        self._steps += steps
        if self.interrupted:
            return None
        if steps < rollout.length:
            rollout = _shorten(rollout, steps)
        self._complete(rollout, finals)
        return rollout

    def stop_sending(self) -> None:
        """Send no more rollouts."""
        self._sender = None

    def send(self, rollout: Rollout) -> None:
        """Send ``rollout`` if there is a sender and the learner can learn from it."""
        if self._sender is not None and self._can_be_learned_from(rollout):
            self._sender.send(rollout)

    def _adopt(self) -> LoadedPolicy:
        if self._begins.all():
            self._agent.reset()
            policy = self._agent.policy
        else:
            policy = self._agent.adopt()
        if policy is not self._policy:
            self._policy = policy
            if policy.signature != self._layout.signature:  # only rollouts of the run's own layout can be sent
                self._environments.check_signature(policy.signature)
                self._layout = RolloutLayout(policy.signature, self._run_layout.length)
        self._tracker.acting(policy.version, policy.digest)
        return policy

    def _prepare(self, policy: LoadedPolicy) -> Rollout:
        """Return a new rollout with its first observation and state. The sender may still read the last one."""
        header = RolloutHeader(
            run_id=self._options.run_id,
            actor_id=self._options.actor_id,
            sequence=0,  # the sender numbers what it sends
            version=policy.version,
            digest=policy.digest,
            noise_seed=self._agent.noise_seed,
            noise_offset=self._agent.noise_offset,
            began_unix_s=time.time(),
        )
        rollout = self._layout.allocate(self._environments.num_envs, header)
        for buffer, leaf in zip(rollout.observation, self._observation, strict=True):
            buffer[0] = leaf
        for buffer, leaf in zip(rollout.state, self._agent.state, strict=True):
            buffer[...] = leaf
        rollout.begins_episode[0] = self._begins
        rollout.valid[0] = ~self._resets
        return rollout

    def _act(self, rollout: Rollout, finals: list[tuple[int, Finals]]) -> int:
        """Act, step and record; return the number of steps."""
        decide, step, environments = self._agent.decide, self._environments.step, self._environments
        masks, actions, log_probs = rollout.action_mask, rollout.action, rollout.behaviour_log_prob
        rewards, terminated, truncated = rollout.reward, rollout.terminated, rollout.truncated
        observations = list(zip(*rollout.observation, strict=True))  # for each step a tuple of leaves [B, …]
        watches_ends = bool(rollout.state) or self._cut
        mask = None
        for t, following in enumerate(observations[1:]):
            if masks is not None:
                mask = masks[t]
                mask[...] = environments.action_mask
            try:
                decision = decide(observations[t], mask)
            except EnvironmentFailed as error:
                raise EnvironmentFailed(f"{environments.env_id}: {error}, in step {self._steps + t + 1}") from error
            try:
                observation, rewards[t], terminated[t], truncated[t], ended = step(decision.env_action)
            except EnvironmentFailed as error:
                raise EnvironmentFailed(f"{error}, in step {self._steps + t + 1}") from error
            actions[t] = decision.action
            if decision.log_prob is not None:
                log_probs[t] = decision.log_prob
            for buffer, leaf in zip(following, observation, strict=True):
                buffer[...] = leaf
            if ended is not None:
                finals.append((t, ended))
            if self.interrupted or (watches_ends and self._watch_ends(rollout, t)):
                return t + 1
        return rollout.length

    def _watch_ends(self, rollout: Rollout, t: int) -> bool:
        """Clear the recurrent state of rows whose next step begins an episode; return True to cut the rollout here."""
        ended = rollout.terminated[t] | rollout.truncated[t]
        beginning = ended
        if self._next_step:
            beginning = ~rollout.valid[t]
            if t + 1 < rollout.length:
                rollout.valid[t + 1] = ~ended
        if beginning.any():
            self._agent.reset(np.flatnonzero(beginning))
        return self._cut and bool(ended.any())

    def _complete(self, rollout: Rollout, finals: list[tuple[int, Finals]]) -> None:
        """Fill in validity, beginnings, final observations and finished episodes, for the whole rollout at once."""
        ended_at = rollout.terminated | rollout.truncated
        if self._next_step:
            rollout.valid[1:] = ~ended_at[:-1]
            rollout.begins_episode[1:] = ~rollout.valid
            self._resets = ended_at[-1]
        else:
            rollout.begins_episode[1:] = ended_at
        self._begins = rollout.begins_episode[-1]
        self._observation = tuple(leaf[-1] for leaf in rollout.observation)
        if finals:
            index = [np.stack((np.full(len(ended.rows), t), ended.rows), axis=1) for t, ended in finals]
            rollout.final_index = np.concatenate(index, dtype=np.int32)
            rollout.final_observation = tuple(
                np.concatenate([ended.observation[i] for _, ended in finals], dtype=buffer.dtype, casting="same_kind")
                for i, buffer in enumerate(rollout.final_observation)
            )
        self.finished = finished = self._tracker.finish(rollout, steps_to_next=2 if self._next_step else 1)
        rollout.header = msgspec.structs.replace(rollout.header, episodes=finished.ends)

    def _can_be_learned_from(self, rollout: Rollout) -> bool:
        """Return True for a whole rollout in the run's layout, acted by one version."""
        acted = self._agent.policy
        if (acted.version, acted.digest) != (rollout.header.version, rollout.header.digest):
            logger.warning("rollout not sent: its version failed while acting version={}", rollout.header.version)
            return False
        if self._layout is not self._run_layout:
            logger.warning("rollout not sent: its signature is not this run's version={}", rollout.header.version)
            return False
        return rollout.length == self._layout.length


def _shorten(rollout: Rollout, length: int) -> Rollout:
    of_steps = ("action", "reward", "terminated", "truncated", "valid", "behaviour_log_prob")
    return replace(
        rollout,
        observation=tuple(leaf[: length + 1] for leaf in rollout.observation),
        action_mask=None if rollout.action_mask is None else rollout.action_mask[:length],
        begins_episode=rollout.begins_episode[: length + 1],
        **{name: getattr(rollout, name)[:length] for name in of_steps},
    )
