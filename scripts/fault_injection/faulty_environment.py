"""CartPole that fails: ``scripts.fault_injection.faulty_environment:FaultyCartPole-v0``, for chaos runs and tests."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

ENV_ID = "scripts.fault_injection.faulty_environment:FaultyCartPole-v0"
RARE_ENV_ID = "scripts.fault_injection.faulty_environment:RareCartPole-v0"

REWARDS = {"nan reward": float("nan"), "infinite reward": float("inf"), "huge reward": 3e38, "large reward": 1e6}
FAULTS = (*REWARDS, "nan observation", "raise", "hang")
"""Faults by name. ``large reward`` is within the default ``--reward-limit``."""

_HANGS_S = 4.0
_RARE_EVERY, _RARE = 200, 2e4


class FaultyCartPole(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole-v1 with faults in the steps ``at`` (from 0) and, if ``again``, in all later ones.

    A file in ``requests`` with the name of a fault makes one environment fail in that way once; it takes the file away.
    The file may hold the words of an exception, or the value of an observation.
    """

    def __init__(
        self, fault: str | None = None, at: int = 0, *, again: bool = True, requests: str | None = None
    ) -> None:
        super().__init__(CartPoleEnv())
        self._fault = fault
        self._at = at
        self._again = again
        self._requests = None if requests is None else Path(requests)
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        fault, word = self._due()
        self._steps += 1
        if fault == "raise":
            raise RuntimeError(f"the cart is stuck {word}")
        if fault == "hang":
            time.sleep(_HANGS_S)
        if fault == "nan observation":
            observation = np.full_like(observation, float(word or "nan"))
        return observation, REWARDS.get(fault or "", reward), terminated, truncated, info

    def _due(self) -> tuple[str | None, str]:
        """Return the fault of this step, if any, and the content of its request."""
        if self._fault is not None and (self._steps == self._at or (self._again and self._steps > self._at)):
            return self._fault, ""
        if self._requests is None:
            return None, ""
        for path in self._requests.glob("[!.]*"):
            with suppress(FileNotFoundError):  # another environment took it
                word = path.read_text()
                path.unlink()
                return path.name, word
        return None, ""


class RareCartPole(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole-v1 whose every 200th observation is large: valid, but an input that no probe has."""

    def __init__(self) -> None:
        super().__init__(CartPoleEnv())
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self._steps += 1
        if self._steps % _RARE_EVERY == 0:
            observation = np.array([_RARE, *observation[1:]], np.float32)
        return observation, reward, terminated, truncated, info


gymnasium.register("RareCartPole-v0", f"{__name__}:RareCartPole", max_episode_steps=500)
gymnasium.register("FaultyCartPole-v0", f"{__name__}:FaultyCartPole", max_episode_steps=500, reward_threshold=475.0)
