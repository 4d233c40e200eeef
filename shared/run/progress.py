"""Reports of a learner: ``progress.json`` during training, ``summary.json`` at its end."""

from typing import Literal

import msgspec

from shared.rollouts.rollout import RolloutAccounts

Phase = Literal["starting", "training", "stopping", "ended"]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """State of a training, written at most five times a second.

    Attributes:
        steps_per_s: environment steps per second over the last seconds.
        mean_return: mean return of the last 100 episodes; None before the first episode ended.
        version: newest published version.
        lag: mean lag of the rollouts of the last update, in versions.
        reloads: number of rollouts acted by another version than the actor's rollout before.
        skipped_updates: number of updates that were not finite and had no effect.
        train_s: seconds since the first environment step.
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
    skipped_updates: int = 0
    actor_restarts: int = 0
    rollouts: RolloutAccounts = msgspec.field(default_factory=RolloutAccounts)
    train_s: float = 0.0
    updated_unix_s: float = 0.0


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Result of a run. ``time_to_target_s`` counts from the first step; None if the last session missed its target."""

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
    skipped_updates: int = 0
