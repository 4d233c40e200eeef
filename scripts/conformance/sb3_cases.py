"""Models of every algorithm and policy class of Stable-Baselines3 and sb3-contrib, compared with their ``predict``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from learner.sb3.adapter import from_sb3
from scripts.conformance.agreement import Predict, Subject, choices, stir

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
NESTED = spaces.Dict(
    {
        "speed": spaces.Box(-1, 1, (2, 2), np.float32),
        "camera": IMAGE,
        "gear": spaces.Discrete(4),
        "contact": spaces.MultiBinary(3),
        "buttons": spaces.MultiDiscrete([2, 3]),
    }
)
# For a Dict with MultiDiscrete, sb3-contrib passes a numpy integer to nn.LSTM, which torch refuses.
NESTED_FOR_LSTM = spaces.Dict({key: space for key, space in NESTED.items() if key != "buttons"})
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)

_OBSERVATIONS: dict[str, spaces.Space[Any]] = {"Mlp": VECTOR, "Cnn": IMAGE, "MultiInput": NESTED}


class AnySpaces(gymnasium.Env[Any, Any]):
    """An environment of any spaces: random observations, zero rewards, episodes of ten steps."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space = observation
        self.action_space = action
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._step = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        self._step += 1
        return self.observation_space.sample(), 0.0, False, self._step >= 10, {}

    def action_masks(self) -> np.ndarray:
        """Return the mask that MaskablePPO requests; every action is legal."""
        return np.ones(sum(choices(self.action_space)), np.bool_)


@dataclass(frozen=True)
class ModelCase:
    algorithm: type[BaseAlgorithm]
    policy: str
    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    normalized: tuple[str, ...] | bool = False
    """True: VecNormalize normalizes the entire observation; names: these keys of it."""

    @property
    def name(self) -> str:
        extras = ", VecNormalize" * bool(self.normalized) + ", gSDE" * bool(self.settings.get("use_sde"))
        return f"{self.algorithm.__name__} {self.policy}, {self.action.__class__.__name__}{extras}"

    def make(self, seed: int = 0) -> BaseAlgorithm:
        """Make a model with perturbed weights, so that actions differ between observations."""
        np.random.seed(seed)
        env: Any = DummyVecEnv([lambda: AnySpaces(self.observation, self.action)])
        if self.normalized:
            keys = list(self.normalized) if isinstance(self.normalized, tuple) else None
            env = VecNormalize(env, norm_obs_keys=keys)
            generator = np.random.default_rng(seed)
            for moments in env.obs_rms.values() if isinstance(env.obs_rms, dict) else (env.obs_rms,):
                moments.update(3 + 2 * generator.standard_normal((100, *moments.mean.shape)))
        make: Callable[..., BaseAlgorithm] = self.algorithm
        model = make(self.policy, env, seed=seed, device="cpu", **self.settings)
        stir(model.policy, seed)
        for name, buffer in model.policy.named_buffers():  # statistics of CrossQ's layers
            if name.endswith(("ra_mean", "ra_var")):
                buffer.add_(0.5 * np.random.default_rng(seed).random())
        return model

    def subject(self, seed: int) -> Subject:
        model: Any = self.make(seed)
        normalization = model.get_vec_normalize_env()

        def predictor() -> Predict:
            state: Any = None

            def predict(observation: Any, mask: np.ndarray | None, starts: np.ndarray) -> np.ndarray:
                nonlocal state
                read = observation if normalization is None else normalization.normalize_obs(observation)
                extra = {} if mask is None else {"action_masks": mask}
                action, state = model.predict(read, state, starts, deterministic=True, **extra)
                return np.asarray(action)

            return predict

        return Subject(from_sb3(model), predictor)


def model_cases() -> Iterator[ModelCase]:
    """Yield every algorithm with every policy class; then normalized observations, other actions and networks."""
    small = {"buffer_size": 16}
    replaying = (DQN, SAC, TD3, DDPG, TQC, QRDQN, CrossQ)
    for algorithm in (PPO, A2C, TRPO, *replaying, MaskablePPO, RecurrentPPO):
        action = DISCRETE if algorithm in (PPO, TRPO, DQN, QRDQN, MaskablePPO) else BOX
        suffix = "Lstm" if algorithm is RecurrentPPO else ""
        for name, observation in _OBSERVATIONS.items():
            if f"{name}{suffix}Policy" not in algorithm.policy_aliases:
                continue
            fitting = NESTED_FOR_LSTM if suffix and observation is NESTED else observation
            settings = small if algorithm in replaying else {}
            yield ModelCase(algorithm, f"{name}{suffix}Policy", fitting, action, settings)
    yield ModelCase(PPO, "MlpPolicy", VECTOR, BOX, normalized=True)
    yield ModelCase(SAC, "MlpPolicy", VECTOR, BOX, small, normalized=True)
    yield ModelCase(PPO, "MultiInputPolicy", NESTED, spaces.MultiDiscrete([3, 2]), normalized=("speed",))
    yield ModelCase(A2C, "MlpPolicy", VECTOR, spaces.MultiBinary(3))
    yield ModelCase(PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True})
    yield ModelCase(SAC, "MlpPolicy", VECTOR, BOX, {"use_sde": True, **small})
    yield ModelCase(MaskablePPO, "MlpPolicy", VECTOR, spaces.MultiDiscrete([3, 2]))
    for action in (DISCRETE, BOX):
        yield ModelCase(ARS, "MlpPolicy", VECTOR, action)
        yield ModelCase(ARS, "LinearPolicy", VECTOR, action, normalized=True)
    yield ModelCase(TQC, "MlpPolicy", VECTOR, BOX, {"use_sde": True, **small}, normalized=True)
    yield ModelCase(CrossQ, "MlpPolicy", VECTOR, BOX, {"use_sde": True, **small})
    yield ModelCase(TRPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True})
    shared = {"shared_lstm": True, "enable_critic_lstm": False, "n_lstm_layers": 2}
    yield ModelCase(RecurrentPPO, "MlpLstmPolicy", VECTOR, DISCRETE, {"policy_kwargs": shared})
