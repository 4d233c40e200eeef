"""``python scripts/train.py``: trains on this machine, with several actor processes, and shows it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from rich.console import Console
from tyro.conf import arg

from learner.run import choose_run_directory
from learner.training.run_options import LearnerRun, to_flags
from learner.training.run_signing import signing_key_for
from rl_hotswap.cli.acting_options import ActingOptions
from rl_hotswap.launcher.child_process import python_module
from rl_hotswap.launcher.live_display import open_display
from rl_hotswap.launcher.single_process_options import SingleProcessRun
from rl_hotswap.launcher.supervisor import Supervisor
from shared.errors import ConfigurationError
from shared.policy.signing import PublicKey
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.run.environment_description import describe_environment
from shared.run.run_directory import RunDirectory

COMMAND = "rl-hotswap train"

# An actor that is there before the learner has imported torch waits for it; the learner's end ends the wait.
_ACTOR_DEADLINE_S = 600
# What a learner is given that is started again when the time is over: it sums up, and ends.
_HARDLY_ANY_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ActingOptions):
    """Train a policy on this machine, with actor processes that adopt each new version while they run.

    Exit code 0: the target or the step limit was reached. 1: --max-seconds came first. 2: it could not do what was
    asked. 3: the learner died again and again. 130: Ctrl-C; once training has begun, a checkpoint is written, and
    --resume goes on from there. With --actors 0 the last regular one stays the last, so that what is resumed is the
    same training, bit for bit.
    """

    actors: int = 1
    """Actor processes. 0: one process acts and learns by turns; the same seed gives the same weights, bit for bit."""
    canary: Annotated[float | None, arg(metavar="P", help_behavior_hint="")] = None
    """Let a new version act only a share P of the episodes until the actors know that its returns are not worse (the
    help of actor.run says how). Older ones act meanwhile: publish seldom, with a large --max-lag. Left out: it acts at
    once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actors < 0:
            raise ConfigurationError(f"--actors is 0 or more; found {self.actors}")
        if self.canary is not None and (self.actors == 0 or not 0 < self.canary < 1):
            raise ConfigurationError("--canary is a share above 0 and below 1, for one actor process or more")
        if self.actors == 0 and self.listen is not None:
            raise ConfigurationError("--listen is for actors that are processes of their own; with --actors 0 none is")


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, TrainOptions, partial(_begin, arguments), arguments)


def _begin(arguments: Sequence[str], options: TrainOptions) -> int:
    if not options.resume:
        options = _with_target(options)
        return train(options, choose_run_directory(options.env, options.run_dir, resume=False))
    run = choose_run_directory(options.env, options.run_dir, resume=True)
    # Read the flags again, those of the run first: what was given now wins, what was not stays as it was.
    flags = [*_stored_flags(run), *arguments, f"--run-dir={run.path}"]
    return run_command(COMMAND, TrainOptions, partial(_resume, run), flags)


def _resume(run: RunDirectory, options: TrainOptions) -> int:
    return train(_with_target(options), run)


def _with_target(options: TrainOptions) -> TrainOptions:
    """With the environment's own target where none was given. Raises ConfigurationError where there is no such one."""
    threshold = describe_environment(options.env, options.environment_kwargs()).reward_threshold
    return options if options.target_return is not None else replace(options, target_return=threshold)


def _stored_flags(run: RunDirectory) -> list[str]:
    flags = (run.options() or {}).get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ConfigurationError(f"{run.path / 'options.json'}: flags are a list of strings; found {flags!r}")
    return flags


def train(options: TrainOptions, run: RunDirectory) -> int:
    """Supervise a whole training in ``run``. Raises ConfigurationError in a child's words where it cannot be done."""
    set_up_logging("supervisor", run.logs, terminal_level=None)
    key = signing_key_for(run, options.signing_key)
    console = Console()
    with run.lock_supervisor():
        _keep_options(options, run)
        began_s = time.monotonic()
        with open_display(console, f"{options.env} in {run.path}") as display:
            code = Supervisor(
                run,
                lambda starts: learner_command(options, run, starts, time.monotonic() - began_s),
                partial(actor_command, options, run, public_key=None if key is None else key.public),
                options.actors,
                display.show,
            ).supervise()
    console.print(conclusion(options, run), markup=False, highlight=False, soft_wrap=True)
    return code


def _keep_options(options: TrainOptions, run: RunDirectory) -> None:
    """For --resume. Who goes on as before has nothing to write, and perhaps a disk that is full."""
    flags = to_flags(replace(options, run_dir=None, resume=False, signing_key=None))
    kept = {"env": options.env, "flags": flags}
    if kept == run.options():
        return
    try:
        run.write_options(kept)
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep the flags of this run in {run.path}: {error.strerror or error}"
        ) from error


def learner_command(options: TrainOptions, run: RunDirectory, starts: int, elapsed_s: float) -> list[str]:
    """What starts the learner, which was started ``starts`` times in the ``elapsed_s`` seconds before.

    One that is started again goes on from its last checkpoint, and has what is left of --max-seconds.
    """
    kind, module = (
        (LearnerRun, "learner.run") if options.actors else (SingleProcessRun, "rl_hotswap.launcher.single_process")
    )
    own: dict[str, Any] = {"supervised": True, "run_dir": run.path}
    own["resume"] = options.resume if starts == 0 else run.has_checkpoint()
    if starts > 0 and options.max_seconds is not None:
        own["max_seconds"] = max(options.max_seconds - elapsed_s, _HARDLY_ANY_S)
    given = {entry.name: getattr(options, entry.name) for entry in fields(kind) if hasattr(options, entry.name)}
    return python_module(module, to_flags(kind(**{**given, **own})))


def actor_command(
    options: TrainOptions, run: RunDirectory, index: int, starts: int, *, public_key: PublicKey | None = None
) -> list[str]:
    """What starts actor ``index``, which was started ``starts`` times before."""
    # A seed for each actor, and a new one after a restart: the same would act the same episodes again.
    (seed,) = np.random.SeedSequence([options.seed, index, starts]).generate_state(1)
    flags = [
        f"--env={options.env}",
        f"--run-dir={run.path}",
        f"--envs={options.envs_per_actor}",
        f"--vector={options.vector}",
        f"--engine={options.engine}",
        *(["--trust-native"] if options.trust_native else []),
        *([] if options.canary is None else [f"--canary={options.canary!r}"]),
        *(f"--trust-module={module}" for module in options.trusted_modules),
        *([] if public_key is None else [f"--public-key={public_key}"]),
        f"--seed={seed}",
        f"--deadline-s={_ACTOR_DEADLINE_S}",
        f"--name=actor-{index}",
        "--supervised",
    ]
    return python_module("actor.run", flags)


def conclusion(options: TrainOptions, run: RunDirectory) -> str:
    """One line that says what came of it, and where it is."""
    summary = run.summary()
    if summary is None:
        what = "--resume goes on from its last checkpoint" if run.has_checkpoint() else "nothing was learned yet"
        return f"no summary: the learner ended before it could write one; {what}. The run is in {run.path}"
    mean = "no episode ended" if summary.mean_return is None else f"mean return {summary.mean_return:.1f}"
    if summary.time_to_target_s is None:
        verdict = "not solved" if options.target_return is not None else "ended"
        verdict += f": {mean}"
    else:
        verdict = f"solved in {summary.time_to_target_s:.1f} s: {mean}, target {options.target_return:g}"
    return f"{verdict}, {summary.env_steps:,} steps, {summary.versions_published} versions. The run is in {run.path}"
