"""One actor process from its flags to its end: finds the policies, acts, tells what happens, joins the training."""

import os
import secrets
import socket
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from loguru import logger
from platformdirs import user_cache_path

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from actor.sandbox.program_sandbox import SandboxLimits
from actor.session.actor_settings import ActorSettings
from actor.session.policy_source import PolicySource, find_source
from actor.session.session_report import SessionReport, say, say_nothing
from actor.session.stop_signal import StopSignal
from actor.session.switch_interval import short_switch_interval
from actor.versions.version_selection import History, Newest, check_canary, parse_follow
from shared.errors import ConfigurationError
from shared.policy.signing import public_keys_of
from shared.process.log import set_up_logging
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import find_environment
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.transport_keys import ActorKeys, choose_actor_keys
from shared.transport.zmq_curve import check_keys
from shared.transport.zmq_transport import ZmqSender

# Short, so that an episode is told soon after its end; what a learner learns from has the length that the run decided.
_LENGTH_FOR_ONESELF = 16


def act(settings: ActorSettings) -> int:
    """Act until there is a reason to stop; returns the exit code (see ``actor.run.main``).

    Raises ConfigurationError, StoreError and PolicyUnavailable.
    """
    follow = parse_follow(settings.follow)
    if isinstance(follow, History) and settings.envs > 1:
        raise ConfigurationError("history draws a version for each episode, so it needs --envs 1")
    check_canary(settings.canary, follow)
    find_environment(settings.env)  # before anything is waited for
    keys = public_keys_of(settings.public_key)
    name = settings.name or f"{socket.gethostname()}-{os.getpid()}"
    tell = say_nothing if settings.supervised else say
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(ignore_interrupt=settings.supervised))
        _log(settings, name, None)
        source = find_source(
            settings.env, settings.run_dir, settings.store, deadline_s=settings.deadline_s, say=tell, keys=keys
        )
        _log(settings, name, source.run)
        kwargs = source.config.env_kwargs if source.config and source.config.env_id == settings.env else {}
        environments = stack.enter_context(
            make_environments(settings.env, settings.envs, vector=settings.vector, env_kwargs=kwargs, measure=True)
        )
        if source.config is not None:
            environments.check_signature(source.config.signature)
        learner = _find_learner(settings, source, tell) if isinstance(follow, Newest) else None
        report = stack.enter_context(SessionReport(tell, settings.episodes, settings.episode_log))
        if source.store.newest() is None:
            tell(f"waiting for a first policy version in {source.where}, for {settings.deadline_s:g} s at most")
        env_seed, noise_seed = _seeds(settings)
        stack.enter_context(short_switch_interval())
        agent = stack.enter_context(
            Agent(
                source.store,
                AgentOptions(
                    num_envs=settings.envs,
                    engine=settings.engine,
                    follow=follow,
                    deterministic=settings.deterministic,
                    seed=noise_seed,
                    deadline_s=settings.deadline_s,
                    signature=None if source.config is None else source.config.signature,
                    stale_after_s=settings.stale_after_s,
                    sandbox=SandboxLimits() if settings.try_first else None,
                    cache_directory=user_cache_path("rl-hotswap"),
                    canary=settings.canary,
                    name=name,
                    trust=TrustOptions(
                        trusted_modules=settings.trust_module,
                        trust_native=settings.trust_native,
                        public_keys=keys,
                        run_id=None if source.config is None else source.config.run_id,
                    ),
                ),
            )
        )
        agent.reset()
        sender = None if learner is None else learner.join(name, tell)
        if sender is not None:
            stack.callback(sender.close)
        worker = RolloutWorker(
            agent,
            environments,
            _layout(agent, source, joined=sender is not None),
            RolloutOptions(
                run_id=source.config.run_id if source.config is not None else "",
                actor_id=name,
                seed=env_seed,
                cut_at_episode_end=sender is None and settings.envs == 1,
            ),
            sender,
        )
        stop.gently(worker.interrupt)

        def tell_of_rollout() -> None:
            report.tell(agent.policy, worker.finished)
            agent.episodes_ended(worker.finished)

        _work(settings, worker, sender, report, tell_of_rollout)
    return stop.exit_code or 0


def _work(
    settings: ActorSettings,
    worker: RolloutWorker,
    sender: ZmqSender | None,
    report: SessionReport,
    tell_of_rollout: Callable[[], None],
) -> None:
    """Act until the episodes are done, somebody stops this, or the training is over and no episode is missing."""

    def training_is_over() -> bool:
        return sender is not None and sender.stop_requested

    worker.run(lambda: report.done or training_is_over(), tell_of_rollout)
    if sender is None or worker.interrupted or report.done:
        return
    logger.info("the learner asks to stop: the training is over")
    report.say("the training is over")
    if settings.episodes is not None and not settings.supervised:
        sender.close()
        worker.stop_sending()
        worker.run(lambda: report.done, tell_of_rollout)


@dataclass(frozen=True)
class _Learner:
    """Where the rollouts go, with what it takes to be heard there."""

    run: RunDirectory
    config: RunConfig
    keys: ActorKeys | None

    def join(self, name: str, tell: Callable[[str], None]) -> ZmqSender:
        tell(f"joined the training in {self.run.path} as {name}: its learner learns from what is acted here")
        return ZmqSender(
            self.config.address,
            self.config.run_id,
            name,
            window=self.config.window,
            learner_timeout_s=self.config.learner_timeout_s,
            keys=self.keys,
        )


def _find_learner(settings: ActorSettings, source: PolicySource, tell: Callable[[str], None]) -> _Learner | None:
    """The learner that is to learn from what is acted here, if any.

    Found before a policy is waited for, so that a missing key is told at once.
    """
    run, config = source.run, source.config
    if run is None or config is None or settings.deterministic or not settings.send:
        return None
    if config.env_id != settings.env:
        tell(f"{source.where} is for {config.env_id}: its learner gets nothing of what is acted in {settings.env}")
        return None
    if not settings.supervised and not run.live():  # a supervisor's learner may still be starting
        return None
    keys = choose_actor_keys(settings.transport_key, run.path, config.learner_public_key)
    check_keys(config.address, keys)
    return _Learner(run, config, keys)


def _layout(agent: Agent, source: PolicySource, *, joined: bool) -> RolloutLayout:
    if joined and source.config is not None:
        return RolloutLayout(source.config.signature, source.config.rollout_length)
    return RolloutLayout(agent.policy.signature, _LENGTH_FOR_ONESELF)


def _log(settings: ActorSettings, name: str, run: RunDirectory | None) -> None:
    """A person sees warnings and worse between the lines that are printed; everything is in the run's log."""
    logs = run.logs if run is not None and os.access(run.logs, os.W_OK) else None
    set_up_logging(name, logs, terminal_level="WARNING", supervised=settings.supervised)


def _seeds(settings: ActorSettings) -> tuple[int, int]:
    """Seeds of the environments and of the noise. The same flags give the same ones; another name gives others."""
    entropy = [secrets.randbits(64) if settings.seed is None else settings.seed]
    if settings.name is not None:
        entropy.append(zlib.crc32(settings.name.encode()))
    env_seed, noise_seed = np.random.SeedSequence(entropy).generate_state(2)
    return int(env_seed), int(noise_seed)
