"""Acting loops of this project, and the environment alone, which bounds them."""

from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import gymnasium
import numpy as np
import torch

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from actor.session.process_state import short_switch_interval
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from learner.publishing.publish_once import publish_once
from scripts.benchmarks.common.rounds import Piece
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore

ENV_ID = "CartPole-v1"
HIDDEN_SIZES = (64, 64)

PIECE_STEPS = 500
_WARM_UP_STEPS = 200


def make_environment() -> gymnasium.Env[np.ndarray, int]:
    return gymnasium.make(ENV_ID, disable_env_checker=True)


def publish_policy(directory: Path, *, onnx: bool = True) -> LocalPolicyStore:
    """Publish one untrained version with a policy and a value network of ``HIDDEN_SIZES``, as in PPO."""
    description = describe_environment(ENV_ID)
    network = NetworkConfig(hidden_sizes=HIDDEN_SIZES)
    generator = torch.Generator().manual_seed(0)
    policy = ActingPolicy(description.leaves, description.action, network, generator=generator).eval()
    store = LocalPolicyStore(directory)
    publish_once(policy, policy.signature, store, env_id=ENV_ID, onnx=onnx)
    return store


def environment_alone() -> Piece:
    """Step one environment with random actions that are drawn beforehand: the upper bound for acting."""
    environment = make_environment()
    environment.reset(seed=0)
    actions = cycle(np.random.default_rng(0).integers(2, size=10_007).tolist())

    def piece() -> int:
        for action in islice(actions, PIECE_STEPS):
            _, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                environment.reset()
        return PIECE_STEPS

    return piece


def agent_loop(store: LocalPolicyStore, resources: ExitStack) -> Piece:
    """Act in one environment with an ``Agent``, as README does."""
    environment = make_environment()
    resources.enter_context(short_switch_interval())
    agent = resources.enter_context(Agent(store))
    observation, _ = environment.reset(seed=0)
    agent.reset()
    for _ in range(_WARM_UP_STEPS):
        agent.act(observation)

    def piece() -> int:
        nonlocal observation
        for _ in range(PIECE_STEPS):
            observation, _, terminated, truncated, _ = environment.step(agent.act(observation))
            if terminated or truncated:
                observation, _ = environment.reset()
                agent.reset()
        return PIECE_STEPS

    return piece


def environments_alone(num_envs: int) -> Piece:
    """Step the vector entry point with constant actions, half of them 0 and half 1.

    All steps of all environments count, including those that only reset an environment.
    """
    vector = gymnasium.make_vec(ENV_ID, num_envs, "vector_entry_point")
    vector.reset(seed=0)
    actions = np.arange(num_envs) % 2
    calls = max(1, 32_000 // num_envs)

    def piece() -> int:
        for _ in range(calls):
            vector.step(actions)
        return calls * num_envs

    return piece


class RecordedRollouts:
    """A ``RolloutWorker`` that sends nothing. A call records one rollout and counts as ``environments_alone`` does."""

    def __init__(self, store: LocalPolicyStore, num_envs: int, length: int, resources: ExitStack) -> None:
        resources.enter_context(short_switch_interval())
        agent = resources.enter_context(Agent(store, AgentOptions(num_envs=num_envs)))
        environments = resources.enter_context(make_environments(ENV_ID, num_envs))
        layout = RolloutLayout(store.open(0).manifest.signature, length)
        options = RolloutOptions(run_id="benchmark", actor_id="actor-0", seed=0)
        self._worker = RolloutWorker(agent, environments, layout, options)
        self._worker.begin_epoch(0)
        self._real = self._all = 0
        self()

    @property
    def real_share(self) -> float:
        """Share of steps that did not only reset an environment."""
        return self._real / self._all

    def __call__(self) -> int:
        rollout = self._worker.collect()
        assert rollout is not None
        steps = rollout.length * rollout.batch_size
        self._real += rollout.env_steps
        self._all += steps
        return steps
