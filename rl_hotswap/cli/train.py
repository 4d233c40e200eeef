"""``rl-hotswap train``: train a policy on this machine with a learner and actor processes, and show progress."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from learner.run import choose_run_directory
from learner.training.run_options import LearnerRun, signing_key_for, to_flags
from rl_hotswap.launcher.acting_options import ActingOptions, SingleProcessRun
from rl_hotswap.launcher.child_process import python_module
from rl_hotswap.launcher.live_display import open_display
from rl_hotswap.launcher.supervisor import Supervisor
from rl_hotswap.launcher.terminal import Terminal
from shared.errors import ConfigurationError, EnvironmentFailed
from shared.policy.signing import PublicKey
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.run.environment_description import describe_environment
from shared.run.private_files import restrict_new_files
from shared.run.run_directory import RunDirectory

COMMAND = "rl-hotswap train"

# An actor waits for the first version while the learner imports torch. The end of the learner ends the wait.
_ACTOR_DEADLINE_S = 600
# Time limit of a learner that is restarted after --max-seconds: it writes its summary and ends.
_EXPIRED_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ActingOptions):
    """Train a policy on this machine with actor processes that adopt each new version while they run.

    Exit codes: 0 target or step limit reached; 1 --max-seconds came first; 2 the flags or the environment cannot work;
    3 the learner died repeatedly; 4 the environment makes training impossible; 130 Ctrl-C. Ctrl-C writes a checkpoint
    once training has begun, and --resume continues from it. With --actors 0, --resume continues from the last regular
    checkpoint, bit for bit.
    """

    actors: int = 1
    """Number of actor processes. 0: one process acts and learns alternately; the same seed gives the same weights."""
    canary: Annotated[float | None, arg(metavar="P", help_behavior_hint="")] = None
    """Share P of the episodes in which a new version acts until its returns are known not to be worse (see rl-hotswap
    act --help). The previous version acts meanwhile: publish seldom and set a large --max-lag. Default: no canary."""
    prefetch: bool = True
    """Let each actor verify new versions in a process beside it once that pays off (see rl-hotswap act --help)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actors < 0:
            raise ConfigurationError(f"--actors must be at least 0; found {self.actors}")
        if self.canary is not None and (self.actors == 0 or not 0 < self.canary < 1):
            raise ConfigurationError("--canary must be above 0 and below 1, and needs at least one actor process")
        if self.actors == 0 and self.listen is not None:
            raise ConfigurationError(
                "leave out --listen: with --actors 0 there are no actor processes that could connect"
            )


def command(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (``sys.argv[1:]`` if None) and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(COMMAND, TrainOptions, partial(_begin, arguments), arguments)


def _begin(arguments: Sequence[str], options: TrainOptions) -> int:
    if not options.resume:
        options = _with_target(options)
        return train(options, choose_run_directory(options.env, options.run_dir, resume=False))
    run = choose_run_directory(options.env, options.run_dir, resume=True)
    # Flags given now override those stored with the run.
    flags = [*_stored_flags(run), *arguments, f"--run-dir={run.path}"]
    return run_command(COMMAND, TrainOptions, lambda merged: train(_with_target(merged), run), flags)


def _with_target(options: TrainOptions) -> TrainOptions:
    """Return ``options`` with the environment's reward threshold as the default target."""
    threshold = describe_environment(options.env, options.environment_kwargs()).reward_threshold
    return options if options.target_return is not None else replace(options, target_return=threshold)


def _stored_flags(run: RunDirectory) -> list[str]:
    flags = (run.options() or {}).get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ConfigurationError(f"{run.path / 'options.json'}: expected a list of strings as flags; found {flags!r}")
    return flags


def train(options: TrainOptions, run: RunDirectory) -> int:
    """Supervise a training in ``run`` and return its exit code.

    Raises ConfigurationError or EnvironmentFailed with a child's message.
    """
    restrict_new_files(group_readable=options.group_readable)
    set_up_logging("supervisor", run.logs, terminal_level=None)
    run.restrict(group_readable=options.group_readable)
    key = signing_key_for(run, options.signing_key)
    console = Terminal()
    with run.lock_supervisor():
        _keep_options(options, run)
        began_s = time.monotonic()
        try:
            with open_display(console, f"{options.env} in {run.path}") as display:
                code = Supervisor(
                    run,
                    lambda starts: learner_command(options, run, starts, time.monotonic() - began_s),
                    partial(actor_command, options, run, public_key=None if key is None else key.public),
                    options.actors,
                    display.show,
                ).supervise()
        except EnvironmentFailed:
            _print_conclusion(console, options, run)
            raise
    _print_conclusion(console, options, run)
    return code


def _print_conclusion(console: Terminal, options: TrainOptions, run: RunDirectory) -> None:
    console.print(conclusion(options, run), soft_wrap=True)


def _keep_options(options: TrainOptions, run: RunDirectory) -> None:
    """Store the flags for --resume. Write nothing if they did not change: the disk may be full."""
    flags = to_flags(replace(options, run_dir=None, resume=False, signing_key=None))
    kept = {"env": options.env, "flags": flags}
    if kept == run.options():
        return
    try:
        run.write_options(kept)
    except OSError as error:
        why = error.strerror or error
        raise ConfigurationError(f"cannot write the flags of this run to {run.path}: {why}") from error


def learner_command(options: TrainOptions, run: RunDirectory, starts: int, elapsed_s: float) -> list[str]:
    """Return the learner's command line. After a start it resumes its checkpoint with the rest of --max-seconds."""
    alone = (SingleProcessRun, "rl_hotswap.launcher.single_process")
    kind, module = (LearnerRun, "learner.run") if options.actors else alone
    own: dict[str, Any] = {"supervised": True, "run_dir": run.path}
    own["resume"] = options.resume if starts == 0 else run.has_checkpoint()
    if starts > 0 and options.max_seconds is not None:
        own["max_seconds"] = max(options.max_seconds - elapsed_s, _EXPIRED_S)
    given = {entry.name: getattr(options, entry.name) for entry in fields(kind) if hasattr(options, entry.name)}
    return python_module(module, to_flags(kind(**{**given, **own})))


def actor_command(
    options: TrainOptions, run: RunDirectory, index: int, starts: int, *, public_key: PublicKey | None = None
) -> list[str]:
    """Return the command line of actor ``index`` after ``starts`` earlier starts."""
    # A new seed for each actor and each restart, so that no episodes are repeated.
    (seed,) = np.random.SeedSequence([options.seed, index, starts]).generate_state(1)
    flags = [
        f"--env={options.env}",
        f"--run-dir={run.path}",
        f"--envs={options.envs_per_actor}",
        f"--vector={options.vector}",
        f"--engine={options.engine}",
        *(["--trust-native"] if options.trust_native else []),
        *(f"--allow-operator={name}" for name in options.allow_operator),
        *(["--trust-program"] if options.trust_program else []),
        *([] if options.canary is None else [f"--canary={options.canary!r}"]),
        *([] if options.prefetch else ["--no-prefetch"]),
        *(f"--trust-module={module}" for module in options.trusted_modules),
        *([] if public_key is None else [f"--public-key={public_key}"]),
        f"--call-deadline-s={options.call_deadline_s!r}",
        f"--seed={seed}",
        f"--deadline-s={_ACTOR_DEADLINE_S}",
        f"--name=actor-{index}",
        "--supervised",
    ]
    return python_module("actor.run", flags)


def conclusion(options: TrainOptions, run: RunDirectory) -> str:
    """Return one line with the outcome and the run's directory."""
    summary = run.summary()
    if summary is None:
        advice = "--resume continues from its last checkpoint" if run.has_checkpoint() else "nothing was learned yet"
        return f"no summary: the learner ended before it could write one; {advice}. The run is in {run.path}"
    mean = "no episode ended" if summary.mean_return is None else f"mean return {summary.mean_return:.1f}"
    if summary.time_to_target_s is None:
        outcome = f"{'not solved' if options.target_return is not None else 'ended'}: {mean}"
    else:
        outcome = f"solved in {summary.time_to_target_s:.1f} s: {mean}, target {options.target_return:g}"
    return f"{outcome}, {summary.env_steps:,} steps, {summary.versions_published} versions. The run is in {run.path}"
