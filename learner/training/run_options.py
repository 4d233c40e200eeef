"""Flags, signing key and exit codes of a training. The module does not import torch, so that help is fast."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import tyro
from loguru import logger

from learner.ppo.learner_config import LearnerConfig
from shared.errors import ConfigurationError
from shared.policy.manifest import ProgramKind
from shared.policy.signing import SigningKey
from shared.run.run_directory import RunDirectory
from shared.transport.addresses import check_listen_address

_POSITIVE = (
    "envs_per_actor publish_every_updates keep_versions checkpoint_every_updates "
    "total_steps max_seconds publish_every_s keep_every checkpoint_every_s"
)
_REPEATED = ("allow_operator",)  # flags with one value, which may be repeated

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Flags of every command that trains."""

    env: str = "CartPole-v1"
    """Gymnasium environment id. module:Id-v0 imports the module that registers it."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, as a JSON object."""
    run_dir: Path | None = None
    """Directory of the run: policies, checkpoints, logs. None: a new directory in runs/."""
    resume: bool = False
    """Continue from the last checkpoint in --run-dir, or of the environment's newest run, with that run's flags."""
    seed: int = 0
    """Seed of weights, actions, environments and the order of minibatches."""
    envs_per_actor: int = 32
    """Environments that each actor steps as one batch."""
    listen: str | None = None
    """Receive rollouts from other machines at tcp://HOST:PORT, such as tcp://0.0.0.0:5555, encrypted.
    Each actor needs the run's actor.key (rl-hotswap act --transport-key). None: from this machine only."""
    group_readable: bool = False
    """Let the group of the run directory read the run: policies, logs, checkpoints. Sending rollouts
    needs actor.key, which only its owner can read. Without this flag only the owner can read anything."""
    total_steps: int | None = None
    """Stop after this many environment steps; None: no limit."""
    target_return: float | None = None
    """Stop when the mean return of the last 100 episodes reaches this; inf: never.
    None: the environment's reward threshold."""
    max_seconds: float | None = None
    """Stop after this many seconds, with exit code 1; None: no limit.
    A learner that is restarted after a crash gets the remaining time, --resume all of it."""
    publish_every_updates: int = 1
    """Publish a policy version after this many updates, or --publish-every-s, whichever comes first."""
    publish_every_s: float | None = 1.0
    """Publish a policy version after this many seconds with at least one update. Ignored with --actors 0."""
    keep_versions: int = 20
    """Number of newest policy versions to keep."""
    keep_every: int | None = None
    """Also keep every N-th version for ever; None: only the newest."""
    programs: tuple[ProgramKind, ...] = ()
    """Programs to publish. torchscript and onnx: both, unless one of them is named.
    executorch: for --engine executorch (extra executorch), with --trust-native.
    aot: native code for --engine aot, compiled for 30 s at the start.
    importable: a class path, for --engine compile and eager."""
    signing_key: Path | None = None
    """File of the private key that signs every version (rl-hotswap keys make DIR); None: no signatures.
    Actors with its public key refuse other versions. The run does not store the path: give it again with --resume."""
    checkpoint_every_updates: int = 100
    """Write a checkpoint after this many updates, or --checkpoint-every-s, whichever comes first."""
    checkpoint_every_s: float | None = 30.0
    """Write a checkpoint after this many seconds with at least one update. Ignored with --actors 0."""
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")] = field(default_factory=LearnerConfig)
    """Settings of the learning algorithm."""

    def __post_init__(self) -> None:
        self.environment_kwargs()
        for name in _POSITIVE.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"--{name.replace('_', '-')} must be above 0; found {value}")
        if self.target_return is not None and math.isnan(self.target_return):
            raise ConfigurationError("--target-return must be a number; found nan")
        if self.listen is not None:
            check_listen_address(self.listen)
        if not 0 <= self.seed < 2**63:  # what torch and environments take
            raise ConfigurationError(f"--seed must be at least 0 and below 2**63; found {self.seed}")

    def environment_kwargs(self) -> dict[str, Any]:
        """Return ``env_kwargs`` as a dictionary. Raises ConfigurationError if it is not a JSON object."""
        return parse_env_kwargs(self.env_kwargs)


@dataclass(frozen=True, kw_only=True)
class LearnerRun(RunOptions):
    """Train a policy on the rollouts that actors send, and publish its versions.

    Starts the learner only. Start actors with rl-hotswap act --env ID --run-dir DIR; they may come and go at any time.
    rl-hotswap train starts both.
    """

    resume: bool = False
    """Continue from the last checkpoint in --run-dir, or of the environment's newest run.
    Give the run's other flags again; only rl-hotswap train --resume restores them."""
    supervised: bool = False
    """Set by the supervisor: exit with it, and do not write to the terminal."""


def parse_env_kwargs(text: str) -> dict[str, Any]:
    """Return a JSON object as a dictionary. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigurationError(
            f'--env-kwargs must be a JSON object such as {{"max_episode_steps": 200}}; found {text!r} ({error})'
        ) from error


def to_flags(options: "DataclassInstance") -> list[str]:
    """Return the command line that gives ``options``. Fields of nested dataclasses are flags like all others."""
    return [word for entry in fields(options) for word in flag_words(entry.name, getattr(options, entry.name))]


def flag_words(name: str, value: object) -> list[str]:
    """Return the command-line words that give the field ``name`` this value."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_flags(value)
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    if name in _REPEATED and isinstance(value, tuple):
        return [f"{flag}={_text(item)}" for item in value]
    if isinstance(value, tuple):
        return [flag, *map(_text, value)]
    # One word, so that a value with a leading dash is not parsed as a flag.
    return [f"{flag}={_text(value)}"]


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


class Outcome(Enum):
    """Reason for the end of a training; ``exit_code`` is that of the commands that train."""

    def __new__(cls, sentence: str, exit_code: int) -> "Outcome":
        member = object.__new__(cls)
        member._value_ = sentence
        member.exit_code = exit_code
        return member

    exit_code: int

    TARGET_REACHED = ("target return reached", 0)
    STEP_LIMIT = ("step limit reached", 0)
    TIME_LIMIT = ("time limit reached first", 1)
    INTERRUPTED = ("interrupted", 130)
    ENVIRONMENT_FAILED = ("environment gives values that cannot be learned from", 4)


def signing_key_for(run: RunDirectory, path: Path | None) -> SigningKey | None:
    """Return the key in ``path``, or None for an unsigned run. Raises ConfigurationError if a signed run has none."""
    config = run.run_config()
    before = None if config is None else config.policy_public_key
    if path is None:
        if before is not None:
            raise ConfigurationError(
                f"name the private key again by --signing-key FILE: the versions of {run.path} are signed with "
                f"{before}, and actors that check signatures refuse others"
            )
        return None
    key = SigningKey.read(path)
    if before is not None and before != str(key.public):
        logger.warning(
            "signing key changed: actors need the new public key, too run={} before={} now={}",
            run.path,
            before,
            key.public,
        )
    return key
