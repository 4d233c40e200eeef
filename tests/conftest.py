"""Settings for all tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore, PolicyStore
from tests.support.agent_policies import MakeAgent
from tests.support.captured_logs import CapturedLogs, capture_logs

# A test that is slow on a busy machine is still right: only pytest's own timeout ends a hang.
settings.register_profile("default", deadline=None)
settings.register_profile("mutation", deadline=None, max_examples=15)  # a mutant needs many runs of each test
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this user's actors remember is no matter here, and what is tried here is nothing to remember."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_sandbox_by_default() -> Iterator[None]:
    """Agents load programs directly unless a test gives limits: a sandbox process takes a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AgentOptions.__init__.__kwdefaults__, "sandbox", None)  # type: ignore[attr-defined]
        yield


@pytest.fixture
def captured_logs() -> Iterator[CapturedLogs]:
    """The log of this process during the test."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    """An empty store that does not wait for the disk."""
    return LocalPolicyStore(tmp_path / "policies", fsync=False)


@pytest.fixture
def make_agent(store: LocalPolicyStore) -> Iterator[MakeAgent]:
    """A function that makes deterministic agents of this thread, closed after the test."""
    agents: list[Agent] = []

    def make(store: PolicyStore = store, **options: Any) -> Agent:
        given = {"num_envs": 3, "synchronous": True, "deadline_s": 0.0, "deterministic": True, "values": True}
        agents.append(Agent(store, AgentOptions(**(given | options))))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
