"""CartPole-v1 without its two velocities: a policy needs memory to solve it.

    rl-hotswap train --env scripts.examples.cartpole_positions:CartPolePositions-v1 --network lstm

``module:EnvId`` needs only a module that registers the environment when it is imported.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

_POSITIONS = [0, 2]  # of the cart and of the pole; 1 and 3 are their velocities


class Positions(gymnasium.ObservationWrapper[np.ndarray, np.int64, np.ndarray]):
    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(space.low[_POSITIONS], space.high[_POSITIONS], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[_POSITIONS]


def make(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    return Positions(CartPoleEnv(render_mode=render_mode))


gymnasium.register("CartPolePositions-v1", entry_point=f"{__name__}:make", max_episode_steps=500, reward_threshold=450)
