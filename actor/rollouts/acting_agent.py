"""The protocol of the agents that a rollout worker acts with."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from actor.loading.loaded_policy import LoadedPolicy


class Decision(Protocol):
    """A batch of decisions, arrays [B, …]. ``log_prob`` is None if the policy computes none."""

    @property
    def action(self) -> np.ndarray: ...
    @property
    def env_action(self) -> np.ndarray: ...
    @property
    def log_prob(self) -> np.ndarray | None: ...


class ActingAgent(Protocol):
    """The part of ``actor.agent.Agent`` that a rollout worker uses."""

    @property
    def policy(self) -> LoadedPolicy: ...
    @property
    def state(self) -> Sequence[np.ndarray]: ...
    @property
    def noise_seed(self) -> int: ...

    noise_offset: int

    def reset(self, rows: np.ndarray | None = None) -> None: ...
    def adopt(self) -> LoadedPolicy: ...
    def wait_for_version(self, version: int, timeout_s: float) -> bool: ...
    def decide(self, observation: Sequence[np.ndarray], action_mask: np.ndarray | None) -> Decision: ...
