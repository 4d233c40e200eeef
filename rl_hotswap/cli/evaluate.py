"""``python scripts/evaluate.py``: how well one policy version does, without noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.versions.version_selection import Pinned
from learner.training.run_options import parse_env_kwargs
from rl_hotswap.cli.one_version_store import OneVersionStore
from shared.errors import ConfigurationError, VersionNotFound
from shared.policy.signing import public_keys_of
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.run.run_config import check_run_config
from shared.run.run_directory import RunDirectory, find_run
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore, VersionFiles, open_version_directory

COMMAND = "rl-hotswap evaluate"

# The version lies on this machine, whole: if it does not load at once, it never will.
_DEADLINE_S = 0.0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Act deterministic episodes with one policy version, and say how they went.

    The same version and seed give the same episodes, one by one.
    """

    env: str
    """Environment id, as Gymnasium knows it; module:Id-v0 imports the module that registers it first."""
    run_dir: Path | None = None
    """Evaluate the newest version of this run; by default of the environment's run that is live, else of the newest."""
    policy: Path | None = None
    """Evaluate the version in this directory instead, such as runs/…/policies/v000042."""
    episodes: int = 20
    """How many episodes; the i-th begins with the seed --seed + i."""
    seed: int = 0
    """Seed of the first episode's environment."""
    env_kwargs: str | None = None
    """Keyword arguments for making the environment, as a JSON object; by default those that the run trains with."""
    public_key: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY")] = ()
    """Evaluate only what was signed with this key (its file, or ed25519:HEX). May be repeated."""
    trust_native: bool = False
    """Run native code out of the store (policy.pt2) too, where nothing else of the version verifies."""
    trust_module: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Import the policy's class from this module or those below it too. May be repeated."""
    json: bool = False
    """Print one JSON object, with every episode's return and length, instead of a table."""

    def __post_init__(self) -> None:
        if self.run_dir is not None and self.policy is not None:
            raise ConfigurationError("--run-dir and --policy both say what to evaluate; give one of them")
        if self.episodes < 1:
            raise ConfigurationError(f"--episodes is at least 1; found {self.episodes}")
        if self.seed < 0:
            raise ConfigurationError(f"--seed is 0 or more; found {self.seed}")


class Evaluation(msgspec.Struct, frozen=True):
    """How the episodes went. ``std`` is the standard deviation of the returns themselves (not of their mean)."""

    env: str
    policy: str
    version: int
    digest: str
    seed: int
    episodes: int
    mean: float
    std: float
    min: float
    max: float
    returns: list[float]
    lengths: list[int]


def main(options: EvaluateOptions) -> int:
    """Evaluate and print. Returns 0, or raises a HotswapError that says what was not possible."""
    set_up_logging("evaluate", None, terminal_level=None)  # the one error line says it all
    env_kwargs = None if options.env_kwargs is None else parse_env_kwargs(options.env_kwargs)
    keys = public_keys_of(options.public_key)
    files, run = _find(options)
    config = None if run is None else run.run_config()
    if run is not None and config is not None:
        check_run_config(config, keys, f"{run.path}/run.json")
    Authenticity(keys, None if config is None else config.run_id).check(files)
    if env_kwargs is None:
        env_kwargs = {} if config is None else config.env_kwargs
    evaluation = evaluate(
        files,
        options.env,
        env_kwargs,
        episodes=options.episodes,
        seed=options.seed,
        trust_native=options.trust_native,
        trusted_modules=options.trust_module,
    )
    if options.json:
        print(msgspec.json.encode(evaluation).decode())
    else:
        Console(soft_wrap=True).print(_table(evaluation))
    return 0


def _find(options: EvaluateOptions) -> tuple[VersionFiles, RunDirectory | None]:
    if options.policy is not None:
        return open_version_directory(options.policy), None
    run = find_run(options.env) if options.run_dir is None else RunDirectory(options.run_dir)
    if run is None:
        raise VersionNotFound(
            f"no run of {options.env} under runs/ has a version yet; name one by --run-dir or --policy"
        )
    store = LocalPolicyStore(run.policies)
    newest = store.newest()
    if newest is None:
        raise VersionNotFound(f"{run.policies} holds no policy version")
    return store.open(newest), run


def evaluate(
    files: VersionFiles,
    env_id: str,
    env_kwargs: dict[str, Any],
    *,
    episodes: int,
    seed: int,
    trust_native: bool = False,
    trusted_modules: tuple[str, ...] = (),
) -> Evaluation:
    """Act ``episodes`` episodes, one after another; the i-th in an environment that was reset with ``seed + i``.

    Raises ConfigurationError for an unknown environment, or one that the version was not made for, and
    PolicyUnavailable for a version that does not verify.
    """
    store = OneVersionStore(files)
    with make_environments(env_id, 1, env_kwargs=env_kwargs) as environments:
        environments.reset(seed)  # says whether there are masks
        environments.check_signature(files.manifest.signature)
        with Agent(
            store,
            AgentOptions(
                num_envs=1,
                follow=Pinned(store.version),
                deterministic=True,
                synchronous=True,
                deadline_s=_DEADLINE_S,
                name="evaluate",
                trust=TrustOptions(trust_native=trust_native, trusted_modules=trusted_modules),
            ),
        ) as agent:
            ends = [_act_episode(agent, environments, seed + i) for i in range(episodes)]
    returns = np.array([episode_return for episode_return, _ in ends])
    return Evaluation(
        env=env_id,
        policy=files.location,
        version=store.version,
        digest=files.manifest.digest,
        seed=seed,
        episodes=episodes,
        mean=float(returns.mean()),
        std=float(returns.std()),
        min=float(returns.min()),
        max=float(returns.max()),
        returns=returns.tolist(),
        lengths=[length for _, length in ends],
    )


def _act_episode(agent: Agent, environments: Environments, seed: int) -> tuple[float, int]:
    """Return and length of one episode."""
    observation = environments.reset(seed)
    agent.reset()
    episode_return = 0.0
    length = 0
    while True:
        decision = agent.decide(observation, environments.action_mask)
        observation, reward, terminated, truncated, _ = environments.step(decision.env_action)
        episode_return += float(reward[0])
        length += 1
        if terminated[0] or truncated[0]:
            return episode_return, length


def _table(evaluation: Evaluation) -> Table:
    title = f"{evaluation.env}: version {evaluation.version} of {evaluation.policy}"
    table = Table(title=title, title_justify="left")
    for name in ("episodes", "mean return", "std", "min", "max", "mean length"):
        table.add_column(name, justify="right", no_wrap=True)
    numbers = (evaluation.mean, evaluation.std, evaluation.min, evaluation.max, float(np.mean(evaluation.lengths)))
    table.add_row(str(evaluation.episodes), *(f"{number:.2f}" for number in numbers))
    return table


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, EvaluateOptions, main, arguments)
