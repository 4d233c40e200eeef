"""An agent and its store, for tests with faults that drive the loader themselves; participants of the transport."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore, PolicyStore
from tests.support.agent_policies import local_store
from tests.support.transport_cases import Network

MakeAgent = Callable[..., Agent]


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return local_store(tmp_path / "policies")


@pytest.fixture
def make_agent(store: LocalPolicyStore) -> Iterator[MakeAgent]:
    agents: list[Agent] = []

    def make(store: PolicyStore = store, **options: Any) -> Agent:
        given = {"num_envs": 3, "synchronous": True, "deadline_s": 0.0, "deterministic": True, "values": True}
        agents.append(Agent(store, AgentOptions(**(given | options))))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture
def network() -> Iterator[Network]:
    """Participants of the ZeroMQ transport, closed after the test."""
    with Network() as network:
        yield network
