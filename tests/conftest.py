"""Settings for all tests."""

import copy
import functools
import gc
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore, PolicyStore
from tests.support.captured_logs import CapturedLogs, capture_logs, terminal_log

if TYPE_CHECKING:  # it imports torch, which takes a single light test two seconds
    from tests.support.agent_policies import MakeAgent

# A test that is slow on a busy machine is still right: only pytest's own timeout ends a hang.
settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("mutation", deadline=None, max_examples=15)  # a mutant needs many runs of each test
settings.load_profile("default")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker of ``-n`` a range of neighbours, which share exports and processes, instead of single tests."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish() -> None:
    """Keep the objects of all tests and libraries out of garbage collections, which would look at them each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Let the exporter of ONNX make its table of operators once, and not at each export: that takes half of its time.

    It parses the source of 500 functions for it. The first test that exports has imported it.
    """
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry: Any = getattr(registration, "ONNXRegistry", None)
    if registry is None or not inspect.ismethod(registry.from_torchlib):
        return
    make = functools.cache(registry.from_torchlib)

    def from_torchlib(*args: Any, **options: Any) -> Any:
        made = copy.copy(make(*args, **options))
        made.functions = {operator: [*found] for operator, found in made.functions.items()}
        return made

    registry.from_torchlib = staticmethod(from_torchlib)


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


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """End the logging that a test, or a command that it calls, sets up: the stream may be one that pytest closes."""
    yield
    if not terminal_log.is_used:
        terminal_log.use()


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
def make_agent(store: LocalPolicyStore) -> "Iterator[MakeAgent]":
    """A function that makes deterministic agents of this thread, closed after the test."""
    agents: list[Agent] = []

    def make(store: PolicyStore = store, **options: Any) -> Agent:
        given = {"num_envs": 3, "synchronous": True, "deadline_s": 0.0, "deterministic": True, "values": True}
        agents.append(Agent(store, AgentOptions(**(given | options))))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
