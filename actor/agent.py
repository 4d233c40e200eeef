"""The agent: acts with the newest verified policy and replaces it between two steps."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from loguru import logger

from actor.acting.adoption_log import AdoptionLog
from actor.acting.policy_call import Decision, PolicyCall
from actor.agent_builder import build_parts
from actor.agent_options import AgentOptions, with_deprecated_keywords
from actor.loading.loaded_policy import LoadedPolicy
from actor.rollouts.episodes import FinishedEpisode
from shared.deprecation import renamed
from shared.errors import EnvironmentFailed, PolicyOutputError, PolicyUnavailable
from shared.policy.noise import NoiseStream
from shared.policy.signature import PolicySignature
from shared.store.policy_store import PolicyStore

_LOG_WAIT_EVERY_S = 10.0


class Agent:
    """Acts for one environment, or for a batch of them, with the policies of a store.

    A loader thread verifies new versions; ``reset`` and ``adopt`` switch to what is ready. With
    ``AgentOptions.synchronous`` there is no thread and both methods load themselves. An agent may be called from one
    thread at a time. While a load is under way, ``reset`` and ``adopt`` wait for it up to 5 ms
    (``actor/versions/load_barrier.py``). The loader thread contends for the GIL many times for a moment each: a process
    that acts does so with ``sys.setswitchinterval(1e-4)``.

    Args:
        store: The store of policy versions.
        options: See ``AgentOptions``. The keywords of the last release still work, with a DeprecationWarning.
    """

    def __init__(self, store: PolicyStore, options: AgentOptions | None = None, **deprecated: Any) -> None:
        if deprecated:
            options = with_deprecated_keywords(options, deprecated)
        self._options = options = options or AgentOptions()
        self.noise_seed = options.seed
        self.noise_offset = 0
        self.adoptions = 0
        self._single = options.num_envs is None
        self._batch_size = options.batch_size
        self._synchronous = options.synchronous
        self._values = options.values
        self._store = store
        self._loader, self._guard = build_parts(store, options)
        self._calling = self._guard.calling
        self.crash_report = self._guard.crash_report  # for ``faulthandler``
        self._manager = self._loader.manager
        self._reports = self._loader.reports
        self._load_barrier = self._loader.load_barrier
        self._adoption_log = AdoptionLog(options.name)
        self._policy: LoadedPolicy | None = None
        self._call: PolicyCall | None = None
        self._run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]] = _nothing_to_run
        self._state: Sequence[np.ndarray] = ()
        self._noise: Callable[[int], np.ndarray | None] | None = None
        self._noise_at: Callable[[int], np.ndarray | None] = _no_noise  # _noise, if the policy takes any
        self._guard.start(lambda: (self.noise_offset, self.adoptions))
        if not options.synchronous:
            self._loader.start()

    @property
    def policy(self) -> LoadedPolicy:
        """The acting policy. ``reset``, ``adopt`` and a failure while acting change it.

        Raises PolicyUnavailable before the first ``reset`` or ``act``.
        """
        if self._policy is None:
            raise PolicyUnavailable(f"{self._options.name} has not begun: call reset() first")
        return self._policy

    @property
    def is_prefetching(self) -> bool:
        """True while a process beside this one verifies new versions (``actor/prefetch``)."""
        return self._loader.is_prefetching

    is_scouted = renamed("Agent", "is_scouted", "is_prefetching")

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """The recurrent state before the next act, arrays [B, …] that are never written to again."""
        return tuple(self._state)

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Begin new episodes in all environments, or only clear the recurrent state of some.

        A whole reset adopts the newest verified version, logs the reports of the loader and clears the recurrent
        state. It neither loads nor raises while a version can act; otherwise it waits for one.

        Args:
            rows: The environments whose recurrent state to clear, as indices or as a mask [B]. None: a whole reset.

        Raises:
            PolicyUnavailable: No version can act after ``AgentOptions.deadline_s``. The message has each failure.
        """
        if rows is not None:
            self._clear_state(rows)
            return
        self._adopt(begins_episodes=True)
        if self._call is not None:
            self._state = self._call.first_state()
        self._loader.episode_began()

    def adopt(self) -> LoadedPolicy:
        """Adopt the newest verified version during episodes, and return the acting policy.

        The recurrent state is kept if it fits the new policy. Waits and raises as ``reset`` does.
        """
        return self._adopt(begins_episodes=False)

    def wait_for_version(self, version: int, timeout_s: float) -> bool:
        """Wait until ``version`` or a newer one acts or is ready. Adopts nothing.

        Returns False after ``timeout_s`` seconds, or if ``version`` failed to load.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._loader.holds(version):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self._loader.has_failed(version):
                return False
            self._wait_for_loader(left_s)
        return True

    def act(self, observation: Any, action_mask: Any = None) -> Any:
        """Return the action for an observation of the environment.

        Args:
            observation: As the environment returns it: with a batch dimension unless ``num_envs`` is None.
            action_mask: The legal actions, bool [B, n], or [n] without a batch dimension. None: all.

        Returns:
            The action for the environment; an int for a Discrete space without a batch dimension, else an array.
        """
        call = self._call or self._first_call()
        arrays = call.flatten(observation)
        mask = None if action_mask is None else np.asarray(action_mask, np.bool_)
        if not self._single:
            return self.decide(arrays, mask).env_action
        row = [arrays[0][None]] if len(arrays) == 1 else [array[None] for array in arrays]
        action = self.decide(row, None if mask is None else mask.reshape(1, -1)).env_action
        if action.ndim > 1:
            return action[0]
        return action[0, ...] if action.dtype.kind == "f" else action.item()

    def decide(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None = None) -> Decision:
        """Return the decision for flat arrays.

        The outputs are checked. If they are invalid, the acting version is quarantined and the last good one answers
        the same step; ``policy`` is another one afterwards.

        Args:
            observation: Arrays [B, …] in the order and dtypes of the signature.
            action_mask: The legal actions, bool [B, n]. None: all.

        Raises:
            SignatureMismatch: The observation does not fit the signature.
            EnvironmentFailed: No policy can answer the observation, since it is not finite or outside of its space.
            PolicyUnavailable: No version is left to act with.
        """
        call, outputs, fault = self._attempt(observation, action_mask)
        if fault is not None:
            call, outputs = self._recover(observation, action_mask, fault)
        self.noise_offset += 1
        decision, self._state = call.read(outputs)
        return decision

    def episodes_ended(self, finished: Sequence[FinishedEpisode]) -> None:
        """Report the episodes that ended since the last ``reset`` or ``adopt``, in that order. ``canary`` needs it."""
        self._loader.episodes_ended(finished)

    def close(self) -> None:
        """Stop the threads and the side processes. Idempotent."""
        self._loader.close()
        self._guard.close()
        self._log_reports(depth=1)
        self._adoption_log.end(self._policy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_call(self) -> PolicyCall:
        self._adopt(begins_episodes=True)
        assert self._call is not None
        return self._call

    def _adopt(self, *, begins_episodes: bool) -> LoadedPolicy:
        """Adopt for ``reset`` and ``adopt``, which the log shows as the place."""
        if self._synchronous:
            self._loader.load_pending()
        else:
            if self._load_barrier.is_loading and self._policy is not None:
                self._load_barrier.wait_briefly()
            self._loader.take_prefetched()
        policy = self._manager.adopt(begins_episodes=begins_episodes)
        if policy is None:
            policy = self._wait_for_policy(begins_episodes=begins_episodes, depth=2)
        if self._reports:
            self._log_reports(depth=2)
        if policy is not self._policy:
            self._act_with(policy)
            self._adoption_log.changed(policy)
        elif self._adoption_log.unlogged:
            self._adoption_log.catch_up(policy)
        return policy

    def _act_with(self, policy: LoadedPolicy) -> None:
        if self._policy is None or policy.signature is not self._policy.signature:
            self._follow_signature(policy.signature if self._values else policy.signature.without_value)
        self._guard.adopted(policy.version, policy.digest, policy.engine_name)
        self._run = policy.engine.run
        self._policy = policy
        self.adoptions += 1

    def _follow_signature(self, signature: PolicySignature) -> None:
        before = self._call
        if before is not None and before.signature == signature:
            return
        self._call = PolicyCall(signature, self._batch_size)
        if before is None or before.signature.state != signature.state:
            self._state = self._call.first_state()
        self._prepare_noise(signature)

    def _prepare_noise(self, signature: PolicySignature) -> None:
        """Make the noise stream once: the loader admits one action space only."""
        if self._noise is None:
            if self._options.deterministic:
                zeros = np.zeros((self._batch_size, *signature.action.noise_shape), np.float32)
                self._noise = lambda _offset: zeros
            else:
                self._noise = NoiseStream(signature.action, self._batch_size, self.noise_seed).at
        assert self._call is not None
        self._noise_at = self._noise if self._call.takes_noise else _no_noise

    def _clear_state(self, rows: np.ndarray) -> None:
        cleared = []
        for array in self._state:
            copy = array.copy()  # a rollout may hold the other
            copy[rows] = 0
            cleared.append(copy)
        self._state = cleared

    def _recover(
        self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None, fault: str
    ) -> tuple[PolicyCall, Sequence[np.ndarray]]:
        """Quarantine the acting version and return the outputs of the last good one, or of any other."""
        while True:
            failed = self.policy
            self._blame_environment(observation, action_mask)
            reason = f"{PolicyOutputError.__name__}: {fault}"
            policy = self._manager.fail_acting(reason)
            self._loader.acting_failed(failed.digest, reason)
            logger.opt(depth=1).error("policy version {} quarantined reason={}", failed.version, reason)
            if policy is None:
                policy = self._wait_after_failure()
            self._act_with(policy)
            logger.opt(depth=1).warning("policy version {} answers the step failed={}", policy.version, failed.version)
            call, outputs, again = self._attempt(observation, action_mask)
            if again is None:
                return call, outputs
            fault = again

    def _wait_after_failure(self) -> LoadedPolicy:
        try:
            return self._wait_for_policy(begins_episodes=False, depth=3)
        except PolicyUnavailable:
            # The next call must not get an answer from the quarantined version.
            self._policy, self._call, self._run = None, None, _nothing_to_run
            raise

    def _attempt(
        self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None
    ) -> tuple[PolicyCall, Sequence[np.ndarray], str | None]:
        call = self._call or self._first_call()
        inputs = call.inputs(observation, self._state, action_mask, self._noise_at(self.noise_offset))
        self._calling[0] = 1
        try:
            outputs = self._run(inputs)
        except PolicyOutputError as error:
            return call, (), str(error)
        finally:
            self._calling[0] = 0
        return call, outputs, call.fault(outputs, action_mask if call.takes_mask else None)

    def _blame_environment(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None) -> None:
        """Raise EnvironmentFailed if no policy can answer these inputs: no version is quarantined for that."""
        call = self._call or self._first_call()
        inputs = call.inputs(observation, self._state, action_mask, self._noise_at(self.noise_offset))
        if (blame := call.input_fault(inputs)) is not None:
            raise EnvironmentFailed(f"no policy can act on this: {blame}")

    def _wait_for_policy(self, *, begins_episodes: bool, depth: int) -> LoadedPolicy:
        """Return the first policy that becomes ready. Raises PolicyUnavailable after the deadline."""
        began_s = logged_s = time.monotonic()
        logger.opt(depth=depth).info("waiting for a policy agent={} store={}", self._options.name, self._store)
        while True:
            if self._reports:
                self._log_reports(depth=depth + 1)
            self._loader.take_prefetched()
            policy = self._manager.adopt(begins_episodes=begins_episodes)
            if policy is not None:
                return policy
            now_s = time.monotonic()
            left_s = began_s + self._options.deadline_s - now_s
            if left_s <= 0:
                break
            if now_s - logged_s > _LOG_WAIT_EVERY_S:
                logged_s = now_s
                why = self._loader.describe_failures()
                name = self._options.name
                logger.opt(depth=depth).warning("still waiting for a policy agent={} failures={}", name, why)
            self._wait_for_loader(min(left_s, 1.0))
        raise PolicyUnavailable(
            f"nothing to act with after {self._options.deadline_s:g} s, following {self._options.followed} in "
            f"{self._store}: {self._loader.describe_failures()}"
        )

    def _wait_for_loader(self, timeout_s: float) -> None:
        if self._synchronous:
            self._loader.wait_for_news(min(timeout_s, self._loader.next_try_s()))
            self._loader.load_pending()
        else:
            self._loader.wait_for_news(timeout_s)

    def _log_reports(self, *, depth: int) -> None:
        while self._reports:
            level, message = self._reports.popleft()
            logger.opt(depth=depth).log(level, message)


def _nothing_to_run(_inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    raise PolicyUnavailable("no policy was adopted yet")


def _no_noise(_offset: int) -> None:
    return None
