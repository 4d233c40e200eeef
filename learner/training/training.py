"""Assembly of one training: from flags and a run directory to a learner loop."""

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import CLASS_PATH
from learner.ppo.learner import Learner
from learner.publishing.policy_publisher import PolicyPublisher
from learner.training.checkpoint import CheckpointStore
from learner.training.learner_loop import LearnerLoop, LoopHooks, LoopOptions
from learner.training.run_options import Outcome, RunOptions, signing_key_for
from learner.training.training_observer import TrainingObserver, summarise
from learner.training.training_statistics import Interval
from shared.engines.importable import ImportablePolicy
from shared.errors import ConfigurationError, EnvironmentFailed
from shared.policy.signing import SigningKey
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import EnvironmentDescription, describe_environment
from shared.run.run_config import RunConfig, sign_run_config
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import LocalPolicyStore, Retention, UsedNumbers
from shared.transport.addresses import LOCAL_ADDRESS, advertised_address
from shared.transport.transport import RolloutReceiver
from shared.transport.transport_keys import keep_learner_keys

_STOP_TIMEOUT_S = 1.0  # a training has to end three seconds after a stop


@dataclass(frozen=True)
class Acting:
    """The acting side. If ``synchronous``, it shares the learner's thread, and the run has to be reproducible."""

    receiver: RolloutReceiver
    synchronous: bool = False
    begin_epoch: Callable[[int], None] | None = None


def train(
    options: RunOptions,
    run: RunDirectory,
    connect: Callable[[RunConfig, RolloutLayout], Acting],
    stop_requested: Callable[[], bool],
) -> Outcome:
    """Run a training, or the rest of one with ``options.resume``, and write ``summary.json``.

    ``connect`` is called once and returns the acting side. Raises ConfigurationError, CheckpointError or StoreLocked if
    training cannot begin, and EnvironmentFailed if the environment gave values that cannot be learned from.
    """
    with run.create().lock_learner(), contextlib.ExitStack() as parts:
        run.forget_summary()
        run.sweep()
        checkpoints = CheckpointStore(run.checkpoints)
        checkpoints.sweep()
        key = signing_key_for(run, options.signing_key)
        environment = describe_environment(options.env, options.environment_kwargs())
        learner = Learner(
            environment.leaves, environment.action, options.learner, masked=environment.masked, seed=options.seed
        )
        config = _run_config(options, run, learner, key)
        if config != run.run_config():  # the disk may be full when a run is resumed
            run.write_run_config(config)
        acting = connect(config, _layout(options, config))
        parts.callback(acting.receiver.close)
        publisher = _publisher(options, run, config, learner, key, synchronous=acting.synchronous)
        parts.callback(publisher.close)
        observer = TrainingObserver(run)
        parts.callback(observer.close)
        loop = LearnerLoop(
            learner,
            acting.receiver,
            publisher,
            checkpoints,
            options=_loop_options(options, environment, synchronous=acting.synchronous),
            hooks=LoopHooks(observer.after_update, stop_requested, acting.begin_epoch),
        )
        outcome = _run(loop, run, observer, resume=options.resume)
        if outcome is Outcome.ENVIRONMENT_FAILED:
            logger.error("training ended: {}", why := _what_failed(options.env, loop))
            raise EnvironmentFailed(why)
        return outcome


def _run(loop: LearnerLoop, run: RunDirectory, observer: TrainingObserver, *, resume: bool) -> Outcome:
    if resume:
        loop.resume()
    observer.report(loop, "starting")
    outcome = loop.run()
    observer.report(loop, "stopping")
    loop.receiver.stop_actors(_STOP_TIMEOUT_S)
    loop.publisher.flush(_STOP_TIMEOUT_S)
    try:
        run.write_summary(summarise(loop))
    except OSError as error:  # the training itself has not failed
        logger.error("summary.json could not be written: {}; summary={}", error, summarise(loop))
    observer.report(loop, "ended")
    logger.info("{}; summary in {}", outcome.value, run.path / "summary.json")
    return outcome


def _layout(options: RunOptions, config: RunConfig) -> RolloutLayout:
    return RolloutLayout(config.signature, config.rollout_length, options.learner.reward_limit)


def _what_failed(env_id: str, loop: LearnerLoop) -> str:
    rejected = loop.receiver.most_rejected
    assert rejected is not None
    return (
        f"fix the environment {env_id}: {rejected.count} rollouts in a row of {rejected.actor_id!r} were rejected, "
        f"the last because {rejected.why}"
    )


def _run_config(options: RunOptions, run: RunDirectory, learner: Learner, key: SigningKey | None) -> RunConfig:
    """Return the configuration that actors read. A resumed run keeps its id, by which actors recognise it."""
    before = run.run_config()
    signature = learner.policy.signature
    if before is not None and before.signature != signature:
        raise ConfigurationError(
            "start a new run, or leave out the flags that changed the network: expected the observations, actions and "
            f"recurrent state of the training in {run.path}, found those of {options.env} with other flags"
        )
    run_id = before.run_id if before is not None else secrets.token_hex(8)
    config = RunConfig(
        run_id=run_id,
        env_id=options.env,
        env_kwargs=options.environment_kwargs(),
        seed=options.seed,
        rollout_length=options.learner.rollout_length,
        signature=signature,
        address=LOCAL_ADDRESS if options.listen is None else advertised_address(options.listen),
        learner_public_key=keep_learner_keys(run.path).public_key,
        policy_public_key=None if key is None else str(key.public),
    )
    return config if key is None else sign_run_config(config, key)


def _publisher(
    options: RunOptions,
    run: RunDirectory,
    config: RunConfig,
    learner: Learner,
    key: SigningKey | None,
    *,
    synchronous: bool,
) -> PolicyPublisher:
    return PolicyPublisher(
        PolicyExporter(
            learner.policy,
            config.signature,
            programs=options.programs,
            importable=(
                ImportablePolicy(CLASS_PATH, learner.policy.arguments) if "importable" in options.programs else None
            ),
        ),
        LocalPolicyStore(run.policies, used_numbers=UsedNumbers(run.numbers)),
        run_id=config.run_id,
        env_id=options.env,
        retention=Retention(keep_newest=options.keep_versions, keep_every=options.keep_every),
        synchronous=synchronous,
        signing_key=key,
    )


def _loop_options(options: RunOptions, environment: EnvironmentDescription, *, synchronous: bool) -> LoopOptions:
    """Return the loop's settings; without intervals in seconds if ``synchronous``, so that the run is reproducible."""
    return LoopOptions(
        batch_steps=options.learner.batch_steps,
        max_lag=options.learner.max_lag,
        target_return=environment.reward_threshold if options.target_return is None else options.target_return,
        total_steps=options.total_steps,
        max_seconds=options.max_seconds,
        publish_every=Interval(options.publish_every_updates, None if synchronous else options.publish_every_s),
        checkpoint_every=Interval(
            options.checkpoint_every_updates, None if synchronous else options.checkpoint_every_s
        ),
    )
