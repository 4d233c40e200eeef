"""The acting loop: reset, act, step, record.

A worker writes what its environments did, step by step, into a fresh rollout, acted by exactly one policy version: the
one that was ready when the rollout began. The loop does nothing that can be done once for a whole rollout.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec
import numpy as np
from gymnasium.vector import AutoresetMode
from loguru import logger

from actor.environments.environments import BoolArray, Environments, Finals
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import EpisodeTracker, FinishedEpisode
from shared.policy.signature import PolicySignature
from shared.rollouts.rollout import Rollout, RolloutHeader, RolloutLayout
from shared.transport.transport import RolloutSender

# Each epoch's noise begins this many steps after that of the epoch before: no epoch is that long.
_EPOCH_STEPS = 2**32
_ROOM_PATIENCE_S = 0.2
# A version that the learner waits to see acted is published already; one that is later than this may never come.
_VERSION_PATIENCE_S = 0.5


class Decision(Protocol):
    """What an agent decided for a batch: arrays [B, …]. ``log_prob`` is None where the policy gives none."""

    @property
    def action(self) -> np.ndarray: ...
    @property
    def env_action(self) -> np.ndarray: ...
    @property
    def log_prob(self) -> np.ndarray | None: ...


class ActingAgent(Protocol):
    """What a worker needs of ``actor.agent.Agent``."""

    @property
    def policy(self) -> LoadedPolicy: ...
    @property
    def state(self) -> Sequence[np.ndarray]: ...
    @property
    def noise_seed(self) -> int: ...

    noise_offset: int

    def reset(self, rows: np.ndarray | None = None) -> None: ...
    def adopt(self) -> LoadedPolicy: ...
    def wait_for_version(self, version: int, timeout_s: float) -> bool: ...
    def decide(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None) -> Decision: ...


class RolloutWorker:
    """Steps ``environments`` with ``agent`` and records rollouts of ``layout``.

    ``sender`` None records all the same, and sends nothing. With ``cut_at_episode_end`` a rollout ends where an episode
    does, so that each episode of a single environment begins with the newest policy; such rollouts cannot be sent.
    ``seed`` stands for every reset of the environments; the noise's own seed is the agent's.
    """

    def __init__(
        self,
        agent: ActingAgent,
        environments: Environments,
        layout: RolloutLayout,
        *,
        run_id: str,
        actor_id: str,
        seed: int,
        sender: RolloutSender | None = None,
        cut_at_episode_end: bool = False,
    ) -> None:
        self.finished: Sequence[FinishedEpisode] = ()
        self.interrupted = False
        self._agent = agent
        self._environments = environments
        self._wanted_layout = layout
        self._layout = layout
        self._run_id = run_id
        self._actor_id = actor_id
        self._seed = seed
        self._sender = sender
        self._cut = cut_at_episode_end
        self._next_step = environments.autoreset_mode is AutoresetMode.NEXT_STEP
        self._tracker = EpisodeTracker(environments.num_envs)
        self._started = False
        self._policy: LoadedPolicy | None = None
        self._observation: Sequence[np.ndarray] = ()
        self._begins: BoolArray = np.ones(environments.num_envs, np.bool_)
        self._resets: BoolArray = np.zeros(environments.num_envs, np.bool_)  # rows whose next step only resets
        environments.check_signature(layout.signature)

    def begin_epoch(self, number: int) -> None:
        """Begin an episode in every environment, with seeds and noise that depend on ``seed`` and ``number`` alone.

        A training that is resumed from checkpoint ``number`` sees what the uninterrupted one saw, if that one began an
        epoch there too. The first epoch is number 0. Waits for a first policy, as ``Agent.reset`` does.
        """
        epoch_seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        self._observation = self._environments.reset(int(epoch_seed) >> 1)  # some environments take 31 bits only
        self._environments.check_signature(self._layout.signature)
        self._begins = np.ones_like(self._begins)
        self._resets = np.zeros_like(self._resets)
        self._tracker.restart()
        self._agent.reset()
        self._agent.noise_offset = number * _EPOCH_STEPS
        self._started = True

    def interrupt(self) -> None:
        """Stop after the step under way, from a signal handler or another thread. ``run`` and ``collect`` return."""
        self.interrupted = True

    def run(self, stop: Callable[[], bool], report: Callable[[], None]) -> None:
        """Collect rollouts and send them until ``stop()`` or ``interrupt()``; ``report`` is called after each."""
        while not stop() and not self.interrupted:
            if self._sender is not None and not self._is_loading(self._sender):
                continue
            rollout = self.collect()
            if rollout is None:
                return
            self.send(rollout)
            report()

    def _is_loading(self, sender: RolloutSender) -> bool:
        """Whether the learner has room for a rollout; then what it wants to see acted is ready, or is late."""
        if not sender.wait_for_room(_ROOM_PATIENCE_S):
            return False
        if sender.wanted_version is not None:
            self._agent.wait_for_version(sender.wanted_version, _VERSION_PATIENCE_S)
        return True

    def collect(self) -> Rollout | None:
        """One rollout, acted by what is ready now; ``finished`` then holds the episodes that ended in it.

        None where ``interrupted`` became true meanwhile: what was acted until then is forgotten.
        """
        if not self._started:
            self.begin_epoch(0)
        policy = self._adopt()
        rollout = self._prepare(policy)
        finals: list[tuple[int, Finals]] = []
        steps = self._act(rollout, finals)
        if self.interrupted:
            return None
        if steps < rollout.length:
            rollout = _shorten(rollout, steps)
        self._complete(rollout, finals)
        return rollout

    def stop_sending(self) -> None:
        """Act for oneself from now on: the training is over."""
        self._sender = None

    def send(self, rollout: Rollout) -> None:
        """Hand ``rollout`` to the learner, where there is one to send to and it can learn from it."""
        if self._sender is None or not self._can_be_learned_from(rollout):
            return
        self._sender.send(rollout)

    def _adopt(self) -> LoadedPolicy:
        if self._begins.all():
            self._agent.reset()
            policy = self._agent.policy
        else:
            policy = self._agent.adopt()
        if policy is not self._policy:
            self._policy = policy
            self._follow_signature(policy.signature)
        self._tracker.acting(policy.version, policy.digest)
        return policy

    def _follow_signature(self, signature: PolicySignature) -> None:
        """Record in the layout of the policy that acts; only that of the run can be sent."""
        if signature == self._layout.signature:
            return
        self._environments.check_signature(signature)
        self._layout = RolloutLayout(signature, self._wanted_layout.length)

    def _prepare(self, policy: LoadedPolicy) -> Rollout:
        """A rollout with everything that is known before its first step. Always fresh: the last may be under way."""
        header = RolloutHeader(
            run_id=self._run_id,
            actor_id=self._actor_id,
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
        """Act, step, record: returns how many steps were taken."""
        decide, step, environments = self._agent.decide, self._environments.step, self._environments
        masks, actions, log_probs = rollout.action_mask, rollout.action, rollout.behaviour_log_prob
        rewards, terminated, truncated = rollout.reward, rollout.terminated, rollout.truncated
        observations = list(zip(*rollout.observation, strict=True))  # a tuple of leaves [B, …] for each step
        watches_ends = bool(rollout.state) or self._cut
        mask = None
        for t, following in enumerate(observations[1:]):
            if masks is not None:
                mask = masks[t]
                mask[...] = environments.action_mask
            decision = decide(observations[t], mask)
            observation, rewards[t], terminated[t], truncated[t], ended = step(decision.env_action)
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
        """Clear the recurrent state of the rows whose next observation begins an episode. Whether to cut here."""
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
        """What can be told from a whole rollout at once: validity, beginnings, finals, finished episodes."""
        ended = rollout.terminated | rollout.truncated
        if self._next_step:
            rollout.valid[1:] = ~ended[:-1]
            rollout.begins_episode[1:] = ~rollout.valid
            self._resets = ended[-1]
        else:
            rollout.begins_episode[1:] = ended
        self._begins = rollout.begins_episode[-1]
        self._observation = tuple(leaf[-1] for leaf in rollout.observation)
        if finals:
            _record_finals(rollout, finals)
        finished = self._tracker.finish(rollout, steps_to_next=2 if self._next_step else 1)
        self.finished = finished
        rollout.header = msgspec.structs.replace(rollout.header, episodes=finished.ends)

    def _can_be_learned_from(self, rollout: Rollout) -> bool:
        """Whether it is whole, laid out as the run's are, and acted by one version."""
        acted = self._agent.policy
        if (acted.version, acted.digest) != (rollout.header.version, rollout.header.digest):
            logger.warning("version {} failed while it acted: its last rollout is not sent", rollout.header.version)
            return False
        if self._layout is not self._wanted_layout:
            logger.warning("version {} has not the signature of this run: nothing is sent", rollout.header.version)
            return False
        return rollout.length == self._layout.length


def _record_finals(rollout: Rollout, finals: list[tuple[int, Finals]]) -> None:
    rollout.final_index = np.concatenate(
        [np.stack((np.full(len(ended.rows), t), ended.rows), axis=1) for t, ended in finals], dtype=np.int32
    )
    rollout.final_observation = tuple(
        np.concatenate([ended.observation[i] for _, ended in finals], dtype=buffer.dtype, casting="same_kind")
        for i, buffer in enumerate(rollout.final_observation)
    )


def _shorten(rollout: Rollout, length: int) -> Rollout:
    """Only the first ``length`` steps of it."""
    return replace(
        rollout,
        observation=tuple(leaf[: length + 1] for leaf in rollout.observation),
        action=rollout.action[:length],
        action_mask=None if rollout.action_mask is None else rollout.action_mask[:length],
        reward=rollout.reward[:length],
        terminated=rollout.terminated[:length],
        truncated=rollout.truncated[:length],
        valid=rollout.valid[:length],
        begins_episode=rollout.begins_episode[: length + 1],
        behaviour_log_prob=rollout.behaviour_log_prob[:length],
    )
