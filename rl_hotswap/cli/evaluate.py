"""``rl-hotswap evaluate``: run deterministic episodes of one policy version and print their statistics."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import tyro
from rich.table import Table

from actor.agent_options import TrustOptions
from actor.sandbox.program_sandbox import SandboxLimits
from actor.session.process_state import StopSignal
from learner.training.run_options import parse_env_kwargs
from rl_hotswap.evaluation import Evaluation, evaluate
from rl_hotswap.launcher.terminal import Terminal
from shared.errors import ConfigurationError, VersionNotFound
from shared.policy.signing import public_keys_of
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.process.terminal import print_line
from shared.run.run_directory import find_run

COMMAND = "rl-hotswap evaluate"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Run deterministic episodes with one policy version and print their statistics.

    The same version and seed give the same episodes.
    """

    env: str
    """Environment id, as Gymnasium knows it; module:Id-v0 imports the module that registers it first."""
    run_dir: Path | None = None
    """Evaluate the newest version of this run. Default: the environment's live run, else its newest run."""
    policy: Path | None = None
    """Evaluate the version in this directory instead, such as runs/NAME/policies/v000042."""
    episodes: int = 20
    """Number of episodes; episode i starts from a reset with seed + i."""
    seed: int = 0
    """Seed of the first episode's environment."""
    env_kwargs: str | None = None
    """Keyword arguments of the environment, as a JSON object. Default: those of the run."""
    public_key: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY")] = ()
    """Evaluate only a version that this key signed (its file, or ed25519:HEX). May be repeated."""
    trust_native: bool = False
    """Permit native code from the store (policy.pt2) when no other program of the version verifies."""
    trust_module: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Permit the import of the policy's class from this module and those below it. May be repeated."""
    allow_operator: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Permit this operator in programs, although it is not on the list of pure ones. May be repeated."""
    trust_program: bool = False
    """Permit programs to use any operators: trust their publisher."""
    sandbox: bool = True
    """Run unknown programs in a sandbox process first. --no-sandbox loads them directly, for trusted publishers."""
    json: bool = False
    """Print one JSON object, with the return and length of every episode, instead of a table."""

    def __post_init__(self) -> None:
        if self.run_dir is not None and self.policy is not None:
            raise ConfigurationError("give --run-dir or --policy, not both: each names what to evaluate")
        if self.seed < 0:
            raise ConfigurationError(f"--seed must be at least 0; found {self.seed}")


def main(options: EvaluateOptions) -> int:
    """Evaluate, print, and return 0. Raises a HotswapError where evaluation is not possible."""
    set_up_logging("evaluate", None, terminal_level=None)  # the one line of the error is enough
    trust = TrustOptions(
        public_keys=public_keys_of(options.public_key),
        trusted_modules=options.trust_module,
        trust_native=options.trust_native,
        allowed_operators=options.allow_operator,
        trust_programs=options.trust_program,
    )
    with StopSignal():  # the second Ctrl-C ends a call of the policy that does not return
        evaluation = evaluate(
            options.policy or options.run_dir or _newest_run(options.env),
            options.env,
            episodes=options.episodes,
            seed=options.seed,
            env_kwargs=None if options.env_kwargs is None else parse_env_kwargs(options.env_kwargs),
            trust=trust,
            sandbox=SandboxLimits() if options.sandbox else None,
        )
    if options.json:
        print_line(msgspec.json.encode(evaluation).decode())
    else:
        Terminal(soft_wrap=True).print(_table(evaluation))
    return 0


def _newest_run(env_id: str) -> Path:
    run = find_run(env_id)
    if run is None:
        raise VersionNotFound(f"name a run with --run-dir or a version with --policy: no run of {env_id} in runs/")
    return run.path


def _table(evaluation: Evaluation) -> Table:
    title = f"{evaluation.env}: version {evaluation.version} of {evaluation.policy}"
    table = Table(title=title, title_justify="left")
    for name in ("episodes", "mean return", "std", "min", "max", "mean length"):
        table.add_column(name, justify="right", no_wrap=True)
    numbers = (evaluation.mean, evaluation.std, evaluation.min, evaluation.max, float(np.mean(evaluation.lengths)))
    table.add_row(str(evaluation.episodes), *(f"{number:.2f}" for number in numbers))
    return table


command = partial(run_command, COMMAND, EvaluateOptions, main)
