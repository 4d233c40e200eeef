"""``python scripts/examples/cleanrl_agent.py``: an agent as CleanRL writes them becomes an artifact, and acts.

``Agent`` is CleanRL's own shape: two networks and ``get_action_and_value``, which samples. A policy here is a pure
function, so ``Published`` takes its noise as an input; it is all that has to be written.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # started as a file, so the path begins with scripts/: it has to begin with the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tempfile

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.categorical import Categorical

import actor.agent
from learner.publish_once import publish_once
from shared.policy_signature import acting_signature
from shared.policy_store import LocalPolicyStore
from shared.spaces import action_spec, observation_leaves

ENV_ID = "CartPole-v1"


class Agent(nn.Module):
    """What CleanRL's ppo.py trains."""

    def __init__(self, envs: gymnasium.vector.VectorEnv) -> None:
        super().__init__()
        n_inputs = int(np.prod(envs.single_observation_space.shape))
        n_actions = int(envs.single_action_space.n)
        self.critic = nn.Sequential(nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(n_inputs, 64), nn.Tanh(), nn.Linear(64, n_actions))

    def get_value(self, x: Tensor) -> Tensor:
        return self.critic(x)

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        probs = Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


class Published(nn.Module):
    """The agent under the policy contract: observation and Gumbel noise in; action, log-probability and value out."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.actor = agent.actor
        self.critic = agent.critic

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        observation, noise = inputs
        log_probs = torch.log_softmax(self.actor(observation), -1)
        action = (log_probs + noise).argmax(-1)
        return [action, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1), self.critic(observation).squeeze(-1)]


def main() -> None:
    envs = gymnasium.make_vec(ENV_ID, num_envs=4, vectorization_mode="sync")
    agent = Agent(envs)  # … and here CleanRL trains it
    signature = acting_signature(
        observation_leaves(envs.single_observation_space), action_spec(envs.single_action_space)
    )
    with tempfile.TemporaryDirectory() as directory:
        store = LocalPolicyStore(Path(directory))
        manifest = publish_once(Published(agent), signature, store, env_id=ENV_ID)
        with actor.agent.Agent(store, num_envs=envs.num_envs) as acting:
            acting.reset()
            observation, _ = envs.reset(seed=0)
            for _ in range(100):
                decision = acting.decide([observation])
                _, log_prob, _, value = agent.get_action_and_value(
                    torch.from_numpy(observation), torch.from_numpy(decision.action)
                )
                np.testing.assert_allclose(decision.log_prob, log_prob.detach(), rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(decision.value, value.detach().squeeze(-1), rtol=1e-5, atol=1e-5)
                observation, *_ = envs.step(decision.env_action)
            print(f"version {manifest.version} of {ENV_ID} acted 100 steps on {acting.policy.rung}, equal to the agent")
    envs.close()


if __name__ == "__main__":
    main()
