"""``python scripts/examples/cleanrl_agent.py``: publish an agent in the style of CleanRL, and act with it.

``Agent`` is CleanRL's class: two networks, and ``get_action_and_value``, which samples. A published policy does not
sample: it returns the distribution of actions, and randomness becomes an input. ``Published`` is the only new code.
"""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.categorical import Categorical

import actor.agent
from actor.agent_options import AgentOptions
from learner.publishing.policy_publisher import publish_policy
from shared.store.policy_store import LocalPolicyStore

ENV_ID = "CartPole-v1"


class Agent(nn.Module):
    """The agent of CleanRL's ppo.py."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        n_inputs = int(np.prod(envs.single_observation_space.shape))
        self.critic = nn.Sequential(nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, envs.single_action_space.n))

    def get_value(self, x: Tensor) -> Any:
        return self.critic(x)

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Any, Any, Any, Any]:
        probs: Any = Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


class Published(nn.Module):
    """The agent without sampling."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.actor = agent.actor
        self.critic = agent.critic

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        return {"logits": self.actor(observation), "value": self.critic(observation)}


def main() -> None:
    envs: Any = gymnasium.make_vec(ENV_ID, num_envs=4, vectorization_mode="sync")
    agent = Agent(envs)  # CleanRL trains it here
    with tempfile.TemporaryDirectory() as directory:
        publish_policy(Published(agent), envs.single_observation_space, envs.single_action_space, directory)
        with actor.agent.Agent(LocalPolicyStore(Path(directory)), AgentOptions(num_envs=4, values=True)) as acting:
            acting.reset()
            observation, _ = envs.reset(seed=0)
            for _ in range(100):
                decision = acting.decide([observation])
                action = torch.from_numpy(decision.action)
                _, log_prob, _, value = agent.get_action_and_value(torch.from_numpy(observation), action)
                found: Any = (decision.log_prob, decision.value)
                np.testing.assert_allclose(found[0], log_prob.detach(), rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(found[1], value.detach().squeeze(-1), rtol=1e-5, atol=1e-5)
                observation, *_ = envs.step(decision.env_action)
            engine = acting.policy.engine_name
            print(f"100 steps of {ENV_ID} on engine {engine}: log-probabilities and values equal the agent's")
    envs.close()


if __name__ == "__main__":
    main()
