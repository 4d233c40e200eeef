"""Actions of a real agent follow from its rollouts and the version in their headers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.policy.noise import NoiseStream
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import publish

COUNTING = "tests.support.counting_environment:Counting-v0"
ENVS, LENGTH, ROLLOUTS = 3, 7, 6


def _derive_again(policy: ActingPolicy, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Return actions [T, B] and log-probabilities, computed from the rollout's inputs."""
    signature = policy.signature
    noise = NoiseStream(signature.action, rollout.batch_size, rollout.header.noise_seed)
    state = [torch.from_numpy(leaf.copy()) for leaf in rollout.state]
    actions, log_probs = [], []
    for t in range(rollout.length):
        goes_on = torch.from_numpy(~rollout.begins_episode[t])[:, None]
        inputs = [torch.from_numpy(leaf[t]) for leaf in rollout.observation]
        inputs += [leaf * goes_on for leaf in state]
        if rollout.action_mask is not None:
            inputs.append(torch.from_numpy(rollout.action_mask[t]))
        inputs.append(torch.from_numpy(noise.at(rollout.header.noise_offset + t)))
        with torch.no_grad():
            action, log_prob, _, *state = policy(inputs)
        actions.append(action.numpy())
        log_probs.append(log_prob.numpy())
    return np.stack(actions), np.stack(log_probs)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("network", "nested"), [("mlp", False), ("lstm", True)])
def test_every_action_follows_from_the_rollout(tmp_path: Path, mode: AutoresetMode, network: str, nested: bool) -> None:
    kwargs = {"nested": nested, "masked": nested}
    store = LocalPolicyStore(tmp_path, fsync=False)
    with make_environments(COUNTING, ENVS, env_kwargs=kwargs, autoreset=mode) as environments:
        config = NetworkConfig(kind=network, hidden_sizes=(8,), recurrent_size=4)  # type: ignore[arg-type]
        policies = [
            ActingPolicy(
                environments.leaves, environments.action, config, nested, torch.Generator().manual_seed(i)
            ).eval()
            for i in range(ROLLOUTS)
        ]
        exporter = PolicyExporter(policies[0], policies[0].signature, onnx=False)
        layout = RolloutLayout(policies[0].signature, LENGTH)
        with Agent(store, AgentOptions(num_envs=ENVS, seed=11, synchronous=True)) as agent:
            options = RolloutOptions(run_id="run", actor_id="actor-0", seed=2)
            worker = RolloutWorker(agent, environments, layout, options)
            for version, policy in enumerate(policies):
                digest = publish(store, policy, exporter).digest
                rollout = worker.collect()
                assert rollout is not None
                layout.check(rollout)
                assert (rollout.header.version, rollout.header.digest) == (version, digest)
                actions, log_probs = _derive_again(policy, rollout)
                np.testing.assert_array_equal(rollout.action, actions)
                np.testing.assert_allclose(rollout.behaviour_log_prob, log_probs, atol=1e-5)
                if rollout.action_mask is not None:
                    chosen = np.take_along_axis(rollout.action_mask, rollout.action[..., None], axis=2)
                    assert chosen.all()
