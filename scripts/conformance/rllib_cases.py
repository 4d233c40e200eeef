"""Modules of RLlib's new API stack, compared with ``forward_inference`` and RLlib's own connectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.spaces.space_utils import unsquash_action

from learner.importers.rllib import MODULE_ID, from_rllib
from scripts.conformance.agreement import Predict, Subject, made

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(-1, 1, (42, 42, 3), np.float32)
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)


@dataclass(frozen=True)
class RLlibCase:
    algorithm: Callable[[], AlgorithmConfig]
    action: spaces.Space[Any]
    observation: spaces.Space[Any] = field(default_factory=lambda: VECTOR)
    model: DefaultModelConfig | None = None

    @property
    def name(self) -> str:
        extras = ", LSTM" * bool(self.model and self.model.use_lstm) + ", image" * (self.observation is IMAGE)
        title = getattr(self.algorithm, "__name__", "").removesuffix("Config")
        return f"RLlib {title}, {type(self.action).__name__}{extras}"

    def make(self, seed: int) -> Any:
        """Return the module with perturbed weights."""
        config = self.algorithm()
        if self.model is not None:
            config = config.rl_module(model_config=self.model)
        spec = config.get_rl_module_spec(spaces={MODULE_ID: (self.observation, self.action)})
        spec.observation_space, spec.action_space = self.observation, self.action
        return made(spec.build, seed)

    def subject(self, seed: int) -> Subject:
        module = self.make(seed)
        return Subject(from_rllib(module), lambda: _predictor(module))


def _predictor(module: Any) -> Predict:
    state: Any = None

    def predict(observation: Any, _: np.ndarray | None, starts: np.ndarray) -> np.ndarray:
        nonlocal state
        batch: dict[str, Any] = {"obs": torch.from_numpy(observation)}
        if module.is_stateful():
            once = module.get_initial_state().items()
            initial = {key: np.stack([np.asarray(value)] * len(starts)) for key, value in once}
            begins = starts[:, None, None]
            state = {
                key: torch.from_numpy(np.where(begins, value, value if state is None else state[key].numpy()))
                for key, value in initial.items()
            }
            batch = {"obs": batch["obs"][:, None], "state_in": state}
        with torch.no_grad():
            outputs = module.forward_inference(batch)
        state = outputs.get("state_out")
        if "actions" in outputs:
            return np.asarray(outputs["actions"].numpy())
        distribution = module.get_inference_action_dist_cls().from_logits(outputs["action_dist_inputs"])
        action = distribution.to_deterministic().sample().numpy()
        action = action[:, 0] if module.is_stateful() else action
        return np.asarray(unsquash_action(action, module.action_space))

    return predict


def cases() -> Iterator[RLlibCase]:
    """Yield the default modules of each algorithm, then those with memory and for images."""
    yield RLlibCase(PPOConfig, DISCRETE)
    yield RLlibCase(PPOConfig, BOX)
    yield RLlibCase(PPOConfig, spaces.MultiDiscrete([3, 2]))
    yield RLlibCase(DQNConfig, DISCRETE)
    yield RLlibCase(SACConfig, BOX)
    yield RLlibCase(SACConfig, DISCRETE)
    yield RLlibCase(PPOConfig, DISCRETE, model=DefaultModelConfig(use_lstm=True, lstm_cell_size=16, max_seq_len=4))
    yield RLlibCase(PPOConfig, DISCRETE, IMAGE)
