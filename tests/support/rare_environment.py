"""``Rare-v0``: observes zeros, and a large number once in an episode of ten steps."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

_LENGTH, _RARE_STEP = 10, 7


class Rare(gymnasium.Env[Any, Any]):
    """An environment for the policies of ``agent_policies`` and ``bad_programs``."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == _LENGTH, False, {}

    def _observe(self) -> np.ndarray:
        observation = np.zeros(4, np.float32)
        observation[0] = 2e4 if self.steps == _RARE_STEP else 0.0
        return observation


gymnasium.register("Rare-v0", Rare)
