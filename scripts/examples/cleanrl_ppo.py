"""``python scripts/examples/cleanrl_ppo.py``: PPO in one file, in the style of CleanRL, with an actor beside it.

The loop is CleanRL's ppo.py. Two lines publish: ``Publisher(...)`` before the loop and ``publisher.publish(...)`` after
each update. Another process acts with ``Agent``, which adopts each version between two episodes, and needs none of the
code of this file's networks.
"""

import multiprocessing
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions.categorical import Categorical

from rl_hotswap import Agent, AgentOptions, Publisher, open_store


@dataclass
class Args:
    env_id: str = "CartPole-v1"
    target_return: float = 475.0
    """training ends when the mean return of the last 100 episodes reaches this value"""
    total_timesteps: int = 500_000
    learning_rate: float = 1e-3
    num_envs: int = 16
    num_steps: int = 128
    gamma: float = 0.99
    gae_lambda: float = 0.95
    num_minibatches: int = 8
    update_epochs: int = 10
    clip_coef: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 1
    store: str = ""
    """directory or URL of the policy store; a temporary directory by default"""


def layer_init(layer: nn.Linear, std: float = 2**0.5) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Network(nn.Module):
    """CleanRL's agent. ``forward`` is what a version computes: the parameters of the distribution, without sampling."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        n_inputs = int(np.prod(envs.single_observation_space.shape))
        n_actions = int(envs.single_action_space.n)
        self.critic = nn.Sequential(
            layer_init(nn.Linear(n_inputs, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 1), std=1.0),
        )
        self.actor = nn.Sequential(
            layer_init(nn.Linear(n_inputs, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, n_actions), std=0.01),
        )

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        return {"logits": self.actor(observation), "value": self.critic(observation)}

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Any, Any, Any, Any]:
        probs: Any = Categorical(logits=self.actor(x), validate_args=False)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x).flatten()


def act(store: str, env_id: str, last_version: Any, results: Any) -> None:
    """Play episodes with the newest version, ten with the last one. Send (version, return) of each."""
    env = gym.make(env_id)
    with Agent(open_store(store), AgentOptions(deterministic=True, deadline_s=120.0)) as agent:
        n_last = 0
        while n_last < 10:
            observation, _ = env.reset()
            agent.reset()  # adopts the newest version
            done, episode_return = False, 0.0
            while not done:
                observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
                episode_return += float(reward)
                done = terminated or truncated
            results.put((agent.policy.version, episode_return))
            n_last += agent.policy.version == last_version.value


def train(args: Args, envs: Any, network: Network, publisher: Publisher) -> float:
    """Train until the target is reached. Return the mean return of the last 100 episodes."""
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, eps=1e-5)
    shape = (args.num_steps, args.num_envs)
    obs = torch.zeros((*shape, *envs.single_observation_space.shape))
    actions = torch.zeros(shape, dtype=torch.int64)
    logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))

    returns: deque[float] = deque(maxlen=100)
    episode_returns = np.zeros(args.num_envs)
    next_obs = torch.from_numpy(envs.reset(seed=args.seed)[0])
    next_done = torch.zeros(args.num_envs)
    start = time.monotonic()
    for global_step in range(0, args.total_timesteps, args.num_steps * args.num_envs):
        for step in range(args.num_steps):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                actions[step], logprobs[step], _, values[step] = network.get_action_and_value(next_obs)
            observation, reward, terminations, truncations, _ = envs.step(actions[step].numpy())
            done = np.logical_or(terminations, truncations)
            rewards[step] = torch.from_numpy(np.asarray(reward, np.float32))
            next_obs, next_done = torch.from_numpy(observation), torch.from_numpy(done.astype(np.float32))
            episode_returns += reward
            returns.extend(episode_returns[done])
            episode_returns[done] = 0.0

        with torch.no_grad():
            next_value = network.critic(next_obs).flatten()
        advantages = torch.zeros(shape)
        last = torch.zeros(args.num_envs)
        for t in reversed(range(args.num_steps)):
            alive = 1.0 - (next_done if t == args.num_steps - 1 else dones[t + 1])
            following = next_value if t == args.num_steps - 1 else values[t + 1]
            delta = rewards[t] + args.gamma * following * alive - values[t]
            advantages[t] = last = delta + args.gamma * args.gae_lambda * alive * last
        batch = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, advantages + values)]
        update(args, network, optimizer, batch)

        mean_return = float(np.mean(returns)) if returns else None
        steps = global_step + args.num_steps * args.num_envs
        publisher.publish(steps, {"mean_return": mean_return})
        print(f"steps={steps} mean_return={mean_return or 0:.1f} seconds={time.monotonic() - start:.1f}", flush=True)
        if len(returns) == 100 and float(np.mean(returns)) >= args.target_return:
            break
    return float(np.mean(returns))


def update(args: Args, network: Network, optimizer: torch.optim.Optimizer, batch: list[Tensor]) -> None:
    """Do the epochs of one PPO update."""
    for _ in range(args.update_epochs):
        for rows in torch.randperm(len(batch[0])).chunk(args.num_minibatches):
            obs, actions, logprobs, advantages, targets = (x[rows] for x in batch)
            _, newlogprob, entropy, newvalue = network.get_action_and_value(obs, actions)
            ratio = (newlogprob - logprobs).exp()
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            pg_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
            v_loss = 0.5 * (newvalue - targets).square().mean()
            loss = pg_loss - args.ent_coef * entropy.mean() + args.vf_coef * v_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), args.max_grad_norm)
            optimizer.step()


def main() -> None:
    args = tyro.cli(Args)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    # In this mode an environment resets in the step that ends an episode, as in the Gymnasium that CleanRL uses.
    vector = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    envs: Any = gym.make_vec(args.env_id, args.num_envs, vectorization_mode="sync", vector_kwargs=vector)
    processes = multiprocessing.get_context("spawn")
    last_version, results = processes.Value("q", -1), processes.Queue()
    with tempfile.TemporaryDirectory() as directory:
        store = args.store or directory
        network = Network(envs)
        spaces = envs.single_observation_space, envs.single_action_space
        with Publisher(store, network, *spaces, run_id="cleanrl", env_id=args.env_id) as publisher:
            publisher.publish()
            actor = processes.Process(target=act, args=(store, args.env_id, last_version, results))
            actor.start()
            trained = train(args, envs, network, publisher)
            last_version.value = publisher.wait() or 0
        played = [results.get(timeout=120)]
        while actor.is_alive() or not results.empty():
            while not results.empty():
                played.append(results.get())
            actor.join(0.1)
    envs.close()
    versions = sorted({version for version, _ in played})
    last = [episode_return for version, episode_return in played if version == last_version.value]
    print(f"mean return of the last 100 episodes in training: {trained:.1f}")
    print(
        f"versions that the actor acted with: {len(versions)} of {last_version.value + 1}, exit code {actor.exitcode}"
    )
    print(f"mean return of the actor's last version: {np.mean(last):.1f} of {len(last)} episodes")
    raise SystemExit(0 if trained >= args.target_return and len(last) >= 10 and not actor.exitcode else 1)


if __name__ == "__main__":
    main()
