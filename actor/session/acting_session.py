"""One actor process from its flags to its end: find the policies, act, report, and join the training."""

import os
import secrets
import socket
import zlib
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from loguru import logger

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from actor.sandbox.cache_directory import user_cache
from actor.sandbox.program_sandbox import SandboxLimits
from actor.session.actor_settings import ActorSettings
from actor.session.policy_source import PolicySource, find_source
from actor.session.process_state import StopSignal, crash_reports, short_switch_interval
from actor.session.session_report import SessionReport, print_line, print_nothing
from actor.versions.follow_rules import Follow, History, Newest, check_canary, parse_follow
from shared.errors import ConfigurationError
from shared.policy.signing import PublicKey, public_keys_of
from shared.process.log import environment_failures, set_up_logging
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import find_environment
from shared.run.private_files import group_may_read, is_own, restrict_new_files
from shared.run.run_directory import RunDirectory
from shared.transport.addresses import resolve_address
from shared.transport.transport_keys import ACTOR_KEY_NAME, choose_actor_keys
from shared.transport.zmq_sender import ZmqSender

_UNSENT_LENGTH = 16  # steps of a rollout that is not sent: short, so that an episode is reported soon after its end


def act(settings: ActorSettings) -> int:
    """Act until there is a reason to stop, and return the exit code (see ``actor.run.main``).

    Raises ConfigurationError, StoreError or PolicyUnavailable when the actor cannot start.
    """
    follow = parse_follow(settings.follow)
    if isinstance(follow, History) and settings.envs > 1:
        raise ConfigurationError("history draws a version for each episode, so it needs --envs 1")
    check_canary(settings.canary, follow)
    find_environment(settings.env)  # an unknown id is an error before any wait
    keys = public_keys_of(settings.public_key)
    name = settings.name or f"{socket.gethostname()}-{os.getpid()}"
    echo = print_nothing if settings.supervised else print_line
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(ignore_interrupt=settings.supervised))
        _set_up_logging(settings, name, None)
        source = find_source(
            settings.env, settings.run_dir, settings.store, deadline_s=settings.deadline_s, print_line=echo, keys=keys
        )
        if source.run is not None:
            restrict_new_files(group_readable=group_may_read(source.run.path))
        log = _set_up_logging(settings, name, source.run)
        stack.enter_context(environment_failures(log))
        kwargs = source.config.env_kwargs if source.config and source.config.env_id == settings.env else {}
        environments = stack.enter_context(
            make_environments(settings.env, settings.envs, vector=settings.vector, env_kwargs=kwargs, measure=True)
        )
        if source.config is not None:
            environments.check_signature(source.config.signature)
        join = _find_learner(settings, source, name, echo) if isinstance(follow, Newest) else None
        report = stack.enter_context(closing(SessionReport(echo, settings.episodes, settings.episode_log)))
        if source.store.newest() is None:
            echo(f"waiting for a first policy version in {source.where}, for {settings.deadline_s:g} s at most")
        env_seed, noise_seed = _seeds(settings)
        stack.enter_context(short_switch_interval())
        agent_options = _agent_options(settings, source, follow=follow, keys=keys, name=name, seed=noise_seed)
        agent = stack.enter_context(Agent(source.store, agent_options))
        stack.enter_context(crash_reports(agent.crash_report))
        agent.reset()
        sender, run_id = None, source.config.run_id if source.config is not None else ""
        layout = RolloutLayout(agent.policy.signature, _UNSENT_LENGTH)
        if join is not None and source.config is not None:
            sender = join()
            stack.callback(sender.close)
            layout = RolloutLayout(source.config.signature, source.config.rollout_length)
        cut = sender is None and settings.envs == 1
        options = RolloutOptions(run_id=run_id, actor_id=name, seed=env_seed, cut_at_episode_end=cut)
        worker = RolloutWorker(agent, environments, layout, options, sender)
        stop.call_instead(worker.interrupt)
        _work(settings, agent, worker, sender, report)
    return stop.exit_code or 0


def _agent_options(
    settings: ActorSettings, source: PolicySource, *, follow: Follow, keys: tuple[PublicKey, ...], name: str, seed: int
) -> AgentOptions:
    config = source.config
    return AgentOptions(
        num_envs=settings.envs,
        engine=settings.engine,
        follow=follow,
        deterministic=settings.deterministic,
        seed=seed,
        deadline_s=settings.deadline_s,
        signature=None if config is None else config.signature,
        stale_after_s=settings.stale_after_s,
        canary=settings.canary,
        prefetch=settings.prefetch,
        name=name,
        sandbox=SandboxLimits() if settings.sandbox else None,
        cache_directory=user_cache(),
        call_deadline_s=settings.call_deadline_s,
        trust=TrustOptions(
            trusted_modules=settings.trust_module,
            trust_native=settings.trust_native,
            allowed_operators=settings.allow_operator,
            trust_programs=settings.trust_program,
            public_keys=keys,
            run_id=None if config is None else config.run_id,
        ),
    )


def _work(
    settings: ActorSettings, agent: Agent, worker: RolloutWorker, sender: ZmqSender | None, report: SessionReport
) -> None:
    """Act until the episodes are done, a signal comes, or the training is over and no episode is missing."""

    def report_rollout() -> None:
        report.add(agent.policy, worker.finished)
        agent.episodes_ended(worker.finished)

    worker.run(lambda: report.done or (sender is not None and sender.stop_requested), report_rollout)
    if sender is None or worker.interrupted or report.done:
        return
    logger.info("training is over: the learner requested a stop")
    report.print_line("the training is over")
    if settings.episodes is not None and not settings.supervised:
        sender.close()
        worker.stop_sending()
        worker.run(lambda: report.done, report_rollout)


def _find_learner(
    settings: ActorSettings, source: PolicySource, name: str, echo: Callable[[str], None]
) -> Callable[[], ZmqSender] | None:
    """Return a function that joins the training, or None if this actor sends no rollouts."""
    run, config = source.run, source.config
    if run is None or config is None or settings.deterministic or not settings.send:
        return None
    if config.env_id != settings.env:
        echo(f"{source.where} is for {config.env_id}: no rollouts of {settings.env} are sent to its learner")
        return None
    if not settings.supervised and not run.live():  # a supervisor's learner may still be starting
        return None
    own_key = run.path / ACTOR_KEY_NAME
    if settings.transport_key is None and own_key.exists() and not os.access(own_key, os.R_OK):
        echo(f"no rollouts are sent: only the owner of {run.path} may read its {ACTOR_KEY_NAME} (--transport-key FILE)")
        return None
    keys = choose_actor_keys(settings.transport_key, run.path, config.learner_public_key)
    address = resolve_address(config.address, run.path)

    def join() -> ZmqSender:
        echo(f"joined the training in {run.path} as {name}: its learner learns from this actor's rollouts")
        timeout_s = config.learner_timeout_s
        return ZmqSender(address, config.run_id, name, keys=keys, window=config.window, learner_timeout_s=timeout_s)

    return join


def _set_up_logging(settings: ActorSettings, name: str, run: RunDirectory | None) -> Path | None:
    """Log to the terminal and to a file of ``run``, if it can be written, and return the path of the file.

    A run of another user gets no file: a link there could lead to any file of this user.
    """
    logs = run.logs if run is not None and is_own(run.path) and os.access(run.logs, os.W_OK) else None
    return set_up_logging(name, logs, terminal_level="WARNING", supervised=settings.supervised)


def _seeds(settings: ActorSettings) -> tuple[int, int]:
    entropy = [secrets.randbits(64) if settings.seed is None else settings.seed]
    if settings.name is not None:
        entropy.append(zlib.crc32(settings.name.encode()))
    env_seed, noise_seed = np.random.SeedSequence(entropy).generate_state(2)
    return int(env_seed), int(noise_seed)
