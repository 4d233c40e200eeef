"""What a learner tells the people who watch it: ``progress.json`` while it trains, ``summary.json`` at its end."""

from typing import Literal

import msgspec

from shared.errors import ConfigurationError
from shared.rollouts.rollout_accounts import RolloutAccounts

Phase = Literal["starting", "training", "stopping", "ended"]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a training stands. Written at most five times a second.

    ``steps_per_s`` is over the last seconds; ``mean_return`` over the last 100 episodes, None before the first has
    ended; ``version`` is the newest one published; ``lag`` is the learner's version minus the last update's rollouts',
    in versions, on average; ``reloads`` counts how often an actor was seen to act with another version than in its
    rollout before; ``train_s`` counts from the first environment step.
    """

    phase: Phase = "starting"
    env_steps: int = 0
    steps_per_s: float = 0.0
    episodes: int = 0
    mean_return: float | None = None
    updates: int = 0
    version: int | None = None
    lag: float | None = None
    reloads: int = 0
    actor_restarts: int = 0
    rollouts: RolloutAccounts = msgspec.field(default_factory=RolloutAccounts)
    train_s: float = 0.0
    updated_unix_s: float = 0.0


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of a run, over all its learners. ``time_to_target_s`` counts from the first environment step.

    None: the target of the last learner was not reached.
    """

    solved: bool
    env_steps: int
    wall_s: float
    time_to_target_s: float | None
    mean_return: float | None
    steps_per_s: float
    versions_published: int
    reloads: int
    actor_restarts: int
    rollouts: RolloutAccounts


def encode_report(report: Progress | Summary) -> bytes:
    """Indented JSON, for people and programs alike."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def decode_progress(data: bytes) -> Progress:
    """Parse and validate. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(data, type=Progress)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"progress.json is not one that this release can read: {error}") from error


def decode_summary(data: bytes) -> Summary:
    """Parse and validate. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(data, type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"summary.json is not one that this release can read: {error}") from error
