"""Agents in the forms of CleanRL's scripts, compared with what each computes itself.

The classes have the constructors, attributes and methods of ``ppo.py``, ``ppo_continuous_action.py``,
``ppo_atari.py``, ``ppo_atari_lstm.py``, ``dqn.py``, ``c51.py``, ``rainbow_atari.py``, ``sac_continuous_action.py``,
``sac_atari.py`` and ``td3_continuous_action.py``, with smaller networks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from learner.importers.cleanrl import from_cleanrl
from scripts.conformance.agreement import Predict, Subject, made

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 40, 36), np.uint8)
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)


# Untyped, as in the scripts.
Categorical: Any = torch.distributions.Categorical
Normal: Any = torch.distributions.Normal


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 8, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 4, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 64), nn.ReLU(),
    )  # fmt: skip


class Agent(nn.Module):
    """``ppo.py``."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        n = int(np.array(envs.single_observation_space.shape).prod())
        self.critic = mlp(n, 1)
        self.actor = mlp(n, int(envs.single_action_space.n))

    def get_value(self, x: Tensor) -> Any:
        return self.critic(x)

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        logits = self.actor(x)
        probs = Categorical(logits=logits)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


class ContinuousAgent(nn.Module):
    """``ppo_continuous_action.py``."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        n = int(np.array(envs.single_observation_space.shape).prod())
        actions = int(np.prod(envs.single_action_space.shape))
        self.critic = mlp(n, 1)
        self.actor_mean = mlp(n, actions)
        self.actor_logstd = nn.Parameter(torch.zeros(1, actions))

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        action_mean = self.actor_mean(x)
        action_logstd = self.actor_logstd.expand_as(action_mean)
        action_std = torch.exp(action_logstd)
        probs = Normal(action_mean, action_std)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


class AtariAgent(nn.Module):
    """``ppo_atari.py``."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        self.network = convolutions()
        self.actor = nn.Linear(64, int(envs.single_action_space.n))
        self.critic = nn.Linear(64, 1)

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        hidden = self.network(x / 255.0)
        logits = self.actor(hidden)
        probs = Categorical(logits=logits)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden)


class LstmAgent(nn.Module):
    """``ppo_atari_lstm.py``."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        self.network = convolutions()
        self.lstm = nn.LSTM(64, 32)
        self.actor = nn.Linear(32, int(envs.single_action_space.n))
        self.critic = nn.Linear(32, 1)

    def get_states(self, x: Tensor, lstm_state: Any, done: Tensor) -> Any:
        hidden = self.network(x / 255.0)
        batch_size = lstm_state[0].shape[1]
        hidden = hidden.reshape((-1, batch_size, self.lstm.input_size))
        done = done.reshape((-1, batch_size))
        new_hidden = []
        for h, d in zip(hidden, done, strict=True):
            h, lstm_state = self.lstm(  # noqa: PLW2901 - as in the script
                h.unsqueeze(0),
                ((1.0 - d).view(1, -1, 1) * lstm_state[0], (1.0 - d).view(1, -1, 1) * lstm_state[1]),
            )
            new_hidden += [h]
        return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

    def get_action_and_value(self, x: Tensor, lstm_state: Any, done: Tensor, action: Any = None) -> Any:
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        logits = self.actor(hidden)
        probs = Categorical(logits=logits)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden), lstm_state


class QNetwork(nn.Module):
    """``dqn.py``."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.network = mlp(int(np.array(env.single_observation_space.shape).prod()), int(env.single_action_space.n))

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class C51Network(nn.Module):
    """``c51.py``."""

    atoms: Tensor

    def __init__(self, env: Any, n_atoms: int = 11, v_min: float = -10, v_max: float = 10) -> None:
        super().__init__()
        self.env = env
        self.n_atoms = n_atoms
        self.register_buffer("atoms", torch.linspace(v_min, v_max, steps=n_atoms))
        self.n = env.single_action_space.n
        self.network = mlp(int(np.array(env.single_observation_space.shape).prod()), int(self.n) * n_atoms)

    def get_action(self, x: Tensor, action: Any = None) -> Any:
        logits = self.network(x)
        pmfs = torch.softmax(logits.view(len(x), self.n, self.n_atoms), dim=2)
        q_values = (pmfs * self.atoms).sum(2)
        if action is None:
            action = torch.argmax(q_values, 1)
        return action, pmfs[torch.arange(len(x)), action]


class RainbowNetwork(nn.Module):
    """``rainbow_atari.py``, without its noisy layers."""

    support: Tensor

    def __init__(self, env: Any, n_atoms: int = 11, v_min: float = -10, v_max: float = 10) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        self.n_actions = int(env.single_action_space.n)
        self.register_buffer("support", torch.linspace(v_min, v_max, n_atoms))
        self.network = convolutions()
        self.value_head = nn.Linear(64, n_atoms)
        self.advantage_head = nn.Linear(64, n_atoms * self.n_actions, bias=False)

    def forward(self, x: Tensor) -> Any:
        h = self.network(x / 255.0)
        value = self.value_head(h).view(-1, 1, self.n_atoms)
        advantage = self.advantage_head(h).view(-1, self.n_actions, self.n_atoms)
        return functional.softmax(value + advantage - advantage.mean(dim=1, keepdim=True), dim=2)


class BoundedActor(nn.Module):
    """The buffers of actors with bounded actions."""

    action_scale: Tensor
    action_bias: Tensor

    def __init__(self, env: Any) -> None:
        super().__init__()
        space = env.single_action_space
        self.register_buffer("action_scale", torch.tensor((space.high - space.low) / 2.0, dtype=torch.float32))
        self.register_buffer("action_bias", torch.tensor((space.high + space.low) / 2.0, dtype=torch.float32))
        self.inputs = int(np.array(env.single_observation_space.shape).prod())
        self.actions = int(np.prod(space.shape))


class SacActor(BoundedActor):
    """``sac_continuous_action.py``."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.fc1 = nn.Linear(self.inputs, 64)
        self.fc_mean = nn.Linear(64, self.actions)
        self.fc_logstd = nn.Linear(64, self.actions)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.fc1(x))
        log_std = torch.tanh(self.fc_logstd(x))
        return self.fc_mean(x), -5 + 0.5 * 7 * (log_std + 1)

    def get_action(self, x: Tensor) -> Any:
        mean, log_std = self(x)
        std = log_std.exp()
        normal: Any = torch.distributions.Normal(mean, std)
        x_t = normal.rsample()
        y_t = torch.tanh(x_t)
        action = y_t * self.action_scale + self.action_bias
        log_prob = normal.log_prob(x_t)
        log_prob -= torch.log(self.action_scale * (1 - y_t.pow(2)) + 1e-6)
        log_prob = log_prob.sum(1, keepdim=True)
        mean = torch.tanh(mean) * self.action_scale + self.action_bias
        return action, log_prob, mean


class SacDiscreteActor(nn.Module):
    """``sac_atari.py``."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        self.conv = convolutions()
        self.fc_logits = nn.Linear(64, int(envs.single_action_space.n))

    def forward(self, x: Tensor) -> Any:
        return self.fc_logits(self.conv(x))

    def get_action(self, x: Tensor) -> Any:
        logits = self(x / 255.0)
        policy_dist = Categorical(logits=logits)
        action = policy_dist.sample()
        action_probs = policy_dist.probs
        log_prob = functional.log_softmax(logits, dim=1)
        return action, log_prob, action_probs


class Td3Actor(BoundedActor):
    """``td3_continuous_action.py`` and ``ddpg_continuous_action.py``."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.fc1 = nn.Linear(self.inputs, 64)
        self.fc_mu = nn.Linear(64, self.actions)

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.fc_mu(functional.relu(self.fc1(x)))) * self.action_scale + self.action_bias


@dataclass(frozen=True)
class CleanRLCase:
    """``best`` is the agent's own choice without randomness; that of an LSTM is a function of its state, too."""

    agent: Callable[[Any], nn.Module]
    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    best: Callable[[Any, Tensor], Tensor]

    @property
    def name(self) -> str:
        return f"CleanRL {getattr(self.agent, '__name__', '')}"

    def subject(self, seed: int) -> Subject:
        envs = SimpleNamespace(single_observation_space=self.observation, single_action_space=self.action)
        agent = made(lambda: self.agent(envs), seed)

        def predictor() -> Predict:
            if isinstance(agent, LstmAgent):
                return _recurrent(agent)

            def predict(observation: Any, _: np.ndarray | None, __: np.ndarray) -> np.ndarray:
                with torch.no_grad():
                    return np.asarray(self.best(agent, torch.Tensor(observation)).numpy())

            return predict

        return Subject(from_cleanrl(agent, self.observation, self.action), predictor)


def _recurrent(agent: LstmAgent) -> Predict:
    state: Any = None

    def predict(observation: Any, _: np.ndarray | None, starts: np.ndarray) -> np.ndarray:
        nonlocal state
        state = state or (torch.zeros(1, len(starts), 32), torch.zeros(1, len(starts), 32))
        with torch.no_grad():
            hidden, state = agent.get_states(torch.Tensor(observation), state, torch.Tensor(starts))
            return np.asarray(agent.actor(hidden).argmax(1).numpy())

    return predict


def most_likely(agent: Any, x: Tensor) -> Tensor:
    """Return the action of the highest log-probability by the agent's own method."""
    log_probs = [agent.get_action_and_value(x, torch.full((len(x),), a))[1] for a in range(int(DISCRETE.n))]
    return torch.stack(log_probs, 1).argmax(1)


def cases() -> Iterator[CleanRLCase]:
    """Yield an agent of each form."""
    yield CleanRLCase(Agent, VECTOR, DISCRETE, most_likely)
    yield CleanRLCase(AtariAgent, IMAGE, DISCRETE, most_likely)
    yield CleanRLCase(LstmAgent, IMAGE, DISCRETE, most_likely)
    yield CleanRLCase(ContinuousAgent, VECTOR, BOX, lambda agent, x: agent.actor_mean(x).clamp(*_bounds()))
    yield CleanRLCase(QNetwork, VECTOR, DISCRETE, lambda agent, x: agent(x).argmax(1))
    yield CleanRLCase(C51Network, VECTOR, DISCRETE, lambda agent, x: agent.get_action(x)[0])
    yield CleanRLCase(RainbowNetwork, IMAGE, DISCRETE, lambda agent, x: (agent(x) * agent.support).sum(2).argmax(1))
    yield CleanRLCase(SacActor, VECTOR, BOX, lambda agent, x: agent.get_action(x)[2])
    yield CleanRLCase(SacDiscreteActor, IMAGE, DISCRETE, lambda agent, x: agent.get_action(x)[2].argmax(1))
    yield CleanRLCase(Td3Actor, VECTOR, BOX, lambda agent, x: agent(x))


def _bounds() -> tuple[Tensor, Tensor]:
    return torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
