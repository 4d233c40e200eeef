"""What a training can be told on the command line: the learner's flags, and how one process hands them to another.

No torch here: ``--help`` and a supervisor start at once.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import tyro

from learner.ppo.learner_config import LearnerConfig
from shared.errors import ConfigurationError
from shared.transport.addresses import check_listen_address

ExtraProgram = Literal["aot", "importable"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What both ``scripts/train.py`` and ``learner.run`` take."""

    env: str = "CartPole-v1"
    """Environment id, as Gymnasium knows it; module:Id-v0 imports the module that registers it first."""
    env_kwargs: str = "{}"
    """Keyword arguments for making the environment, as a JSON object."""
    run_dir: Path | None = None
    """Directory of this run: policies, checkpoints, logs. Without it, a new one under runs/."""
    resume: bool = False
    """Go on from the last checkpoint of --run-dir, else of the environment's newest run, with that run's flags."""
    seed: int = 0
    """Seed of everything random."""

    envs_per_actor: int = 32
    """Environments that each actor steps together, as one batch."""
    listen: str | None = None
    """Receive rollouts from other machines too: tcp://HOST:PORT, such as tcp://0.0.0.0:5555. They come encrypted, from
    actors that were given the run's actor.key (python -m actor.run --transport-key). Without it, from this machine."""

    total_steps: int | None = None
    """End after this many environment steps, if the target was not reached before."""
    target_return: float | None = None
    """End when the last 100 episodes' mean return is this; by default the environment's own threshold; inf is never."""
    max_seconds: float | None = None
    """End after this many seconds, with exit code 1, if neither target nor step limit was reached before. A learner
    that dies and is started again has what is left of them; --resume has all of them again."""

    publish_every_updates: int = 1
    """A policy version is published after this many updates, or after --publish-every-s, whichever comes first."""
    publish_every_s: float | None = 1.0
    """Seconds after which a policy version is published, if there was an update; not with --actors 0."""
    keep_versions: int = 20
    """How many of the newest policy versions are kept."""
    keep_every: int | None = None
    """Keep every N-th version for good, beside the newest ones."""
    programs: tuple[ExtraProgram, ...] = ()
    """Programs to publish beside TorchScript and ONNX: aot (native code for --engine aot; compiled for half a minute
    at the start) and importable (a class path for --engine compile and eager)."""
    signing_key: Path | None = None
    """Sign every version with this private key (python scripts/keys.py make DIR makes one). Actors that are given its
    public key refuse all others. Neither the key nor this path is kept: --resume needs the flag again."""
    checkpoint_every_updates: int = 100
    """A checkpoint is written after this many updates, or after --checkpoint-every-s, whichever comes first."""
    checkpoint_every_s: float | None = 30.0
    """Seconds after which a checkpoint is written, if there was an update; not with --actors 0."""

    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")] = field(default_factory=LearnerConfig)
    """What and how the learner learns."""

    def __post_init__(self) -> None:
        self.environment_kwargs()
        for name in ("envs_per_actor", "publish_every_updates", "keep_versions", "checkpoint_every_updates"):
            _require_positive(name, getattr(self, name))
        for name in ("total_steps", "max_seconds", "publish_every_s", "keep_every", "checkpoint_every_s"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        if self.target_return is not None and math.isnan(self.target_return):
            raise ConfigurationError("--target-return is a number; found nan")
        if self.listen is not None:
            check_listen_address(self.listen)
        if not 0 <= self.seed < 2**63:  # what torch and environments take
            raise ConfigurationError(f"--seed is 0 or more, and below 2**63; found {self.seed}")

    def environment_kwargs(self) -> dict[str, Any]:
        """``env_kwargs`` as a dictionary. Raises ConfigurationError where it is no JSON object."""
        return parse_env_kwargs(self.env_kwargs)


@dataclass(frozen=True, kw_only=True)
class LearnerRun(RunOptions):
    """Train policies from the rollouts that actors send, and publish them.

    The learner alone: actors are started by hand or elsewhere (python -m actor.run --env ID --run-dir DIR), and found
    again when they come and go. scripts/train.py starts both.
    """

    resume: bool = False
    """Go on from the last checkpoint of --run-dir, else of the environment's newest run. Give the flags that it was
    started with again: only scripts/train.py --resume remembers its own."""
    supervised: bool = False
    """Set by a supervisor: end when it ends, and leave the terminal to it."""


def parse_env_kwargs(text: str) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ConfigurationError(
            f'--env-kwargs is a JSON object such as {{"max_episode_steps": 200}}; found {text!r} ({error})'
        ) from error


def to_flags(options: "DataclassInstance") -> list[str]:
    """The command line that gives ``options`` back. Nested dataclasses are flat, as they are on the command line."""
    return [word for entry in fields(options) for word in _flag(entry.name, getattr(options, entry.name))]


def _flag(name: str, value: Any) -> list[str]:
    if is_dataclass(value) and not isinstance(value, type):
        return to_flags(value)
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    if isinstance(value, tuple):
        return [flag, *map(_text, value)]
    # One word, so that a negative number or a leading dash is never taken for another flag.
    return [f"{flag}={_text(value)}"]


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigurationError(f"--{name.replace('_', '-')} is above 0; found {value}")
