"""``python -m learner.run``: the learner alone, for actors that are started separately."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loguru import logger

from learner.training.run_options import LearnerRun, Outcome
from shared.errors import ConfigurationError
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.process.process_guard import die_with_parent
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import find_environment
from shared.run.private_files import restrict_new_files
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory, find_run, new_run_directory


def main(options: LearnerRun) -> int:
    """Train until the target, a limit or a signal. Return the outcome's exit code."""
    return run_training(options, partial(_train_with_actors, options))


def run_training(options: LearnerRun, train: Callable[[RunDirectory, Callable[[], bool]], Outcome]) -> int:
    """Set up this process (signals, run directory, log, threads), call ``train``, return the outcome's exit code."""
    if options.supervised:
        die_with_parent()
    stop = stop_on_signals()
    find_environment(options.env)  # raises before any file is written
    run = choose_run_directory(options.env, options.run_dir, resume=options.resume)
    restrict_new_files(group_readable=options.group_readable)
    set_up_logging("learner", run.logs, supervised=options.supervised)
    run.restrict(group_readable=options.group_readable)

    import torch

    torch.set_num_threads(1)
    outcome = train(run, stop.is_set)
    # The exporter loads many modules: a garbage collection at exit would take seconds.
    gc.freeze()
    return outcome.exit_code


def _train_with_actors(options: LearnerRun, run: RunDirectory, stop_requested: Callable[[], bool]) -> Outcome:
    from learner.training.training import Acting, train
    from shared.transport.addresses import resolve_address
    from shared.transport.arrival_journal import ArrivalJournal
    from shared.transport.receiver_flow import ReceiverOptions
    from shared.transport.transport_keys import ACTOR_KEY_NAME, keep_learner_keys
    from shared.transport.zmq_receiver import ZmqReceiver

    def connect(config: RunConfig, layout: RolloutLayout) -> Acting:
        receiver = ZmqReceiver(
            options.listen or resolve_address(config.address, run.path),
            layout,
            config.run_id,
            ReceiverOptions(config.heartbeat_s, window=config.window, synchronous=options.learner.sync),
            keys=keep_learner_keys(run.path),
            journal=ArrivalJournal(run.path / "arrivals.jsonl"),
        )
        logger.info("waiting for actors run={} address={}", config.run_id, config.address)
        if not options.supervised:
            logger.info("start one with: rl-hotswap act --env {} --run-dir {}", options.env, run.path)
        if options.listen is not None:
            logger.info("on another machine, give it a copy of {} with --transport-key", run.path / ACTOR_KEY_NAME)
        return Acting(receiver)

    return train(options, run, connect, stop_requested)


def choose_run_directory(env_id: str, path: Path | None, *, resume: bool) -> RunDirectory:
    """Return the directory to train in, created if new. Raises ConfigurationError if it does not fit ``resume``."""
    if path is None and not resume:
        return new_run_directory(env_id)
    run = find_run(env_id) if path is None else RunDirectory(path)
    if resume and (run is None or not run.has_checkpoint()):
        where = "runs/" if run is None else str(run.path)
        raise ConfigurationError(
            f"nothing to resume: no checkpoint of {env_id} in {where}; leave out --resume to start a new training"
        )
    assert run is not None
    if not resume and run.has_checkpoint():
        raise ConfigurationError(
            f"{run.path} already holds a training; continue it with --resume, or choose another --run-dir"
        )
    return run.create()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and the first Ctrl-C set; a second Ctrl-C raises KeyboardInterrupt."""
    stop = threading.Event()

    def request(signum: int, _frame: object) -> None:
        if stop.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)
    return stop


if __name__ == "__main__":
    sys.exit(run_command("python -m learner.run", LearnerRun, main))
