"""Evaluation of one policy version: deterministic episodes and their statistics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.environments.environment_creation import make_environments
from actor.environments.environments import Environments
from actor.sandbox.cache_directory import user_cache
from actor.sandbox.program_sandbox import DEFAULT_LIMITS, SandboxLimits
from actor.versions.follow_rules import Pinned
from shared.errors import ConfigurationError, NotTrusted, StoreError, VersionNotFound
from shared.operators.program_trust import is_trusted_module
from shared.policy.manifest import MANIFEST_NAME, Manifest
from shared.run.run_config import RunConfig, check_run_config
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import (
    LocalPolicyStore,
    PolicyStore,
    Retention,
    VersionFiles,
    open_store,
    open_version_directory,
)


class Evaluation(msgspec.Struct, frozen=True):
    """Statistics of the episodes of one version. ``std`` is that of the returns, not of their mean."""

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


def evaluate(
    policy: str | Path | PolicyStore,
    env: str | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    trust: TrustOptions | None = None,
    sandbox: SandboxLimits | None = DEFAULT_LIMITS,
) -> Evaluation:
    """Run deterministic episodes with one policy version; the same version and seed give the same episodes.

    Args:
        policy: Directory of a version, or a run or policy store (object, directory, URL) with its newest version.
        env: Environment id; ``module:Id-v0`` imports the module first. None: the environment of the version or its run,
            whose module has to be one of ``trust.trusted_modules``.
        episodes: Number of episodes; episode ``i`` starts from a reset with ``seed + i``.
        seed: Seed of the first episode.
        env_kwargs: Keyword arguments of the environment. None: those of the run, where ``policy`` is a run.
        trust: Public keys and permissions, as for ``Agent``.
        sandbox: Limits of the process in which unknown programs run first. None: programs are loaded directly.

    Raises:
        ConfigurationError: The environment is unknown or not that of the version, or there is no episode.
        NotTrusted: The environment that the version names is in a module that is not trusted.
        VersionNotFound: There is no version.
        PolicyUnavailable: The version does not verify.
    """
    if episodes < 1:
        raise ConfigurationError(f"episodes must be at least 1; found {episodes}")
    trust = trust or TrustOptions()
    files, config = _open(policy, trust)
    env = env or _recorded_env(files, config, trust)
    if env_kwargs is None:
        env_kwargs = {} if config is None else config.env_kwargs
    store = OneVersionStore(files)
    options = AgentOptions(
        num_envs=1,
        follow=Pinned(store.version),
        deterministic=True,
        synchronous=True,
        deadline_s=0.0,  # the version is whole: if it does not load at once, it never will
        name="evaluate",
        sandbox=sandbox,
        cache_directory=user_cache(),
        trust=replace(trust, run_id=None if config is None else config.run_id),
    )
    with make_environments(env, 1, env_kwargs=env_kwargs) as environments:
        environments.reset(seed)  # finds out whether there are action masks
        environments.check_signature(files.manifest.signature)
        with Agent(store, options) as agent:
            ends = [_run_episode(agent, environments, seed + i) for i in range(episodes)]
    returns = np.array([episode_return for episode_return, _ in ends])
    return Evaluation(
        env=env,
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


def _open(policy: str | Path | PolicyStore, trust: TrustOptions) -> tuple[VersionFiles, RunConfig | None]:
    """Return the version that ``policy`` stands for, with its run's configuration where ``policy`` is a run."""
    config = None
    if isinstance(policy, str | Path) and (path := Path(policy)).is_dir():
        if (path / MANIFEST_NAME).exists():
            return _checked(open_version_directory(path), trust, None), None
        run = RunDirectory(path)
        if run.env_id() is not None:
            config = run.run_config()
            if config is not None:
                check_run_config(config, trust.public_keys, f"{run.path}/run.json")
            policy = LocalPolicyStore(run.policies)
    store = open_store(policy) if isinstance(policy, str | Path) else policy
    newest = store.newest()
    if newest is None:
        raise VersionNotFound(f"{store} holds no policy version")
    return _checked(store.open(newest), trust, config), config


def _recorded_env(files: VersionFiles, config: RunConfig | None, trust: TrustOptions) -> str:
    """Return the environment that the version or its run names. Its publisher must not choose a module to import."""
    env = files.manifest.env_id if config is None else config.env_id
    if env is None:
        raise ConfigurationError(f"name the environment: {files.location} does not say which one it was trained in")
    module = env.rpartition(":")[0]
    if module and not is_trusted_module(module, trust.trusted_modules):
        raise NotTrusted(
            f"give env={env!r} if you trust the module {module}: {files.location} names it, and its import runs code"
        )
    return env


def _checked(files: VersionFiles, trust: TrustOptions, config: RunConfig | None) -> VersionFiles:
    Authenticity(trust.public_keys, None if config is None else config.run_id).check(files)
    return files


def _run_episode(agent: Agent, environments: Environments, seed: int) -> tuple[float, int]:
    observation = environments.reset(seed)
    agent.reset()
    episode_return, length = 0.0, 0
    while True:
        decision = agent.decide(observation, environments.action_mask)
        observation, reward, terminated, truncated, _ = environments.step(decision.env_action)
        episode_return += float(reward[0])
        length += 1
        if terminated[0] or truncated[0]:
            return episode_return, length


class OneVersionStore:
    """A ``PolicyStore`` around one opened version. Quarantines are discarded."""

    watch_path: Path | None = None
    notes: None = None

    def __init__(self, files: VersionFiles) -> None:
        self._files = files
        self.version = files.manifest.version

    def __str__(self) -> str:
        return self._files.location

    def versions(self) -> list[int]:
        return [self.version]

    def newest(self) -> int | None:
        return self.version

    def open(self, version: int) -> VersionFiles:
        if version != self.version:
            raise VersionNotFound(f"this store holds version {self.version} only; version {version} was requested")
        return self._files

    def publish(self, *_: object, **__: object) -> Manifest:
        raise StoreError(f"{self} is one version; publish into a store")

    def make_durable(self, version: int) -> None:
        pass

    def sweep(self, retention: Retention) -> list[int]:  # noqa: ARG002
        return []

    def quarantine(self, digest: str, reason: str, by: str) -> None:
        pass

    def quarantined(self) -> dict[str, str]:
        return {}
