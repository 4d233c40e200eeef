"""Canary evaluation in a real environment with real rollouts: alone, in a batch, and with a loader thread."""

import time
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
import torch
from torch import Tensor, nn

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from actor.session.process_state import short_switch_interval
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.policy.spaces import ActionSpec
from shared.rollouts.rollout import RolloutLayout
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import VECTOR, publish
from tests.support.waiting import PATIENCE_S, Running

BALANCES = (0.0, 0.0, 1.0, 1.0)
BALANCES_AS_WELL = (0.0, 0.0, 2.0, 2.0)
ALWAYS_LEFT = (0.0, 0.0, 0.0, 0.0)

Publish = Callable[[tuple[float, ...]], str]
_PATIENCE_S = 3 * PATIENCE_S  # for whole evaluations


class Pushes(nn.Module):
    """Pushes a cart to the right if the weighted sum of its observation is above 0."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        action = ActionSpec("discrete", "int64", (), (2,), (0,))
        config = NetworkConfig(hidden_sizes=(4,))
        self.policy = ActingPolicy(VECTOR, action, config, False, torch.Generator().manual_seed(0)).eval()
        self.signature = self.policy.signature
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        _, log_prob, value = self.policy(inputs)
        return [((inputs[0] * self.weights).sum(dim=1) > 0).to(torch.int64), log_prob, value]


@pytest.fixture(scope="module")
def exporter() -> PolicyExporter:
    policy = Pushes(BALANCES)
    return PolicyExporter(policy, policy.signature, onnx=False)


@pytest.fixture
def publish_pushes(store: LocalPolicyStore, exporter: PolicyExporter) -> Publish:
    return lambda weights: publish(store, Pushes(weights), exporter).digest


def _verdicts(store: LocalPolicyStore) -> list[bool]:
    """Return for each decided evaluation in the notes whether the candidate was worse."""
    found = [store.notes.read(name) for name in store.notes.names() if name.startswith("verdict")]
    return [msgspec.json.decode(note)["is_worse"] for note in found if note]


def _act(store: LocalPolicyStore, name: str, envs: int, length: int, *, synchronous: bool) -> int:
    """Act until a verdict is carried out, and return the newest adopted version."""
    seed = len(name)
    options = AgentOptions(num_envs=envs, canary=0.4, synchronous=synchronous, deterministic=True, name=name, seed=seed)
    with (
        make_environments("CartPole-v1", envs, vector="sync", env_kwargs={"max_episode_steps": 100}) as environments,
        Agent(store, options) as agent,
    ):
        agent.reset()
        layout = RolloutLayout(agent.policy.signature, length)
        rollout_options = RolloutOptions(run_id="", actor_id=name, seed=3, cut_at_episode_end=envs == 1)
        worker = RolloutWorker(agent, environments, layout, rollout_options)

        def act() -> int:
            worker.collect()
            agent.episodes_ended(worker.finished)
            return agent._manager.newest.version if agent._manager.newest else -1

        deadline_s = time.monotonic() + _PATIENCE_S
        while not (verdicts := _verdicts(store)):
            assert time.monotonic() < deadline_s
            act()
        while act() != (0 if verdicts[0] else 1) or agent._manager.candidate is not None:
            assert time.monotonic() < deadline_s
        return agent._manager.newest.version if agent._manager.newest else -1


@pytest.mark.parametrize(("envs", "length"), [(1, 256), (4, 37)])
@pytest.mark.parametrize("weights", [ALWAYS_LEFT, BALANCES_AS_WELL])
def test_the_version_that_acts_in_the_end_is_not_worse(
    store: LocalPolicyStore, publish_pushes: Publish, weights: tuple[float, ...], envs: int, length: int
) -> None:
    is_worse = weights == ALWAYS_LEFT
    publish_pushes(BALANCES)
    with Agent(store, AgentOptions(num_envs=1, canary=0.4, synchronous=True, name="first")) as first:
        first.reset()  # so that version 0 is what others are compared with
    digest = publish_pushes(weights)
    assert _act(store, "actor", envs, length, synchronous=True) == (0 if is_worse else 1)
    assert _verdicts(store) == [is_worse]
    assert set(store.quarantined()) == ({digest} if is_worse else set())


def test_two_actors_with_loader_threads_reach_one_verdict(store: LocalPolicyStore, publish_pushes: Publish) -> None:
    publish_pushes(BALANCES)
    with Agent(store, AgentOptions(num_envs=1, canary=0.4, synchronous=True, name="first")) as first:
        first.reset()
    digest = publish_pushes(ALWAYS_LEFT)
    with short_switch_interval():  # as in every process that acts: two busy threads would starve two loaders
        actors = [Running(partial(_act, store, name, 4, 16, synchronous=False)) for name in ("one", "the other")]
        assert [actor.join(_PATIENCE_S + PATIENCE_S) for actor in actors] == [0, 0]
    assert _verdicts(store) == [True]
    assert set(store.quarantined()) == {digest}
