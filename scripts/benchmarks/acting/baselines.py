"""Acting loops of Stable-Baselines3, TorchRL and CleanRL, with the same networks and environments."""

import logging

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from scripts.benchmarks.acting.acting_loops import HIDDEN_SIZES, PIECE_STEPS, make_environment, small_network
from scripts.benchmarks.common.rounds import Piece


def sb3_predict_and_step() -> Piece:
    """Act with Stable-Baselines3's PPO in the environment itself, which is faster than a vector of one."""
    from stable_baselines3 import PPO

    environment = make_environment()
    model = PPO("MlpPolicy", environment, policy_kwargs={"net_arch": list(HIDDEN_SIZES)}, device="cpu")
    observation, _ = environment.reset(seed=0)

    def piece() -> int:
        nonlocal observation
        for _ in range(PIECE_STEPS):
            action, _ = model.predict(observation)
            observation, _, terminated, truncated, _ = environment.step(action)  # type: ignore[arg-type]
            if terminated or truncated:
                observation, _ = environment.reset()
        return PIECE_STEPS

    return piece


def sb3_collect_rollouts(num_envs: int, length: int) -> Piece:
    """Call ``PPO.collect_rollouts`` with its own buffer and a DummyVecEnv without monitors."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    environments = DummyVecEnv([make_environment] * num_envs)
    arch = {"net_arch": list(HIDDEN_SIZES)}
    model = PPO("MlpPolicy", environments, n_steps=length, batch_size=length, policy_kwargs=arch, device="cpu", seed=0)
    _, callback = model._setup_learn(total_timesteps=1)  # as learn() does before its first rollout

    def piece() -> int:
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, length)
        return num_envs * length

    return piece


class _CleanRLAgent(nn.Module):
    """Actor and critic as in single-file implementations."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = small_network(4, 2, last_gain=0.01)
        self.critic = small_network(4, 1, last_gain=1.0)

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distribution = Categorical(logits=self.actor(observation))
        action = distribution.sample()  # type: ignore[no-untyped-call]
        return action, distribution.log_prob(action), self.critic(observation)  # type: ignore[no-untyped-call]


def cleanrl_rollouts(num_envs: int, length: int) -> Piece:
    """Run CleanRL's rollout loop: a SyncVectorEnv with statistics, and tensors that are written step by step."""
    wrap = gymnasium.wrappers.RecordEpisodeStatistics
    environments = SyncVectorEnv([lambda: wrap(make_environment())] * num_envs)
    agent = _CleanRLAgent()
    observations = torch.zeros((length, num_envs, 4))
    actions, log_probs, rewards, dones, values = torch.zeros((5, length, num_envs)).unbind()
    first, _ = environments.reset(seed=0)
    observation, done = torch.Tensor(first), torch.zeros(num_envs)

    def piece() -> int:
        nonlocal observation, done
        for step in range(length):
            observations[step], dones[step] = observation, done
            with torch.no_grad():
                action, log_prob, value = agent.act(observation)
            values[step], actions[step], log_probs[step] = value.flatten(), action, log_prob
            following, reward, terminated, truncated, _ = environments.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            observation, done = torch.Tensor(following), torch.Tensor(np.logical_or(terminated, truncated))
        return length * num_envs

    return piece


def torchrl_collector(num_envs: int, length: int) -> Piece:
    """Run TorchRL's collector in this process with its fastest settings; it records what PPO needs."""
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper
    from torchrl.modules import ProbabilisticActor, ValueOperator

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    mode = AutoresetMode.SAME_STEP  # required by the collector
    made = make_environment() if num_envs == 1 else SyncVectorEnv([make_environment] * num_envs, autoreset_mode=mode)
    environment = GymWrapper(made, categorical_action_encoding=True)
    actor = ProbabilisticActor(
        TensorDictModule(small_network(4, 2, last_gain=0.01), in_keys=["observation"], out_keys=["logits"]),
        spec=environment.action_spec,
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    value = ValueOperator(small_network(4, 1, last_gain=1.0), in_keys=["observation"])
    collector = Collector(
        environment,
        TensorDictSequential(actor, value),
        frames_per_batch=num_envs * length,
        total_frames=-1,
        track_traj_ids=False,
        trust_policy=True,
        auto_register_policy_transforms=False,
    )
    batches = iter(collector)
    return lambda: int(next(batches).numel())
