"""An agent with a prefetcher: it acts as it would without one, whatever is published, and whatever becomes of the
prefetcher.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.prefetch import prefetcher
from scripts.fault_injection.corrupted_versions import CORRUPTIONS
from shared.store.policy_store import LocalPolicyStore, version_name
from tests.support.agent_policies import eager, exporter, local_store, make_policy, publish, publish_seed, quiet_noise
from tests.support.bad_versions import publish_corrupted
from tests.support.paths import REPOSITORY
from tests.support.signature_attacks import KEY, OTHER_KEY
from tests.support.waiting import Running, until

OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
Scouted = Callable[..., Agent]


@pytest.fixture
def scouted(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scouted]:
    """Makes an agent that acts with the newest version, and has a prefetcher that is at work."""
    monkeypatch.setattr(prefetcher, "WORTH_S", 0.0)
    agents: list[Agent] = []

    def make(**settings: Any) -> Agent:
        agent = Agent(store, AgentOptions(num_envs=3, deterministic=True, deadline_s=20.0, **settings))
        agents.append(agent)
        agent.reset()
        assert agent.policy.engine_name == "llvm"
        until(lambda: agent.is_prefetching and agent._loader.watcher.is_delegated)
        return agent

    yield make
    for agent in agents:
        agent.close()


def _process(agent: Agent) -> psutil.Process:
    run = agent._loader._prefetcher._run  # type: ignore[union-attr]
    return psutil.Process(run._process.pid)  # type: ignore[union-attr]


def _adopts(agent: Agent, version: int, seed: int) -> None:
    """It acts with ``version`` as the policy of ``seed`` does, soon."""
    until(lambda: agent.adopt().version >= version)
    assert agent.policy.version == version
    policy = make_policy(seed=seed)
    (expected, log_prob, _) = eager(policy, OBSERVATIONS, quiet_noise(policy, 3))
    decision = agent.decide([OBSERVATIONS])
    np.testing.assert_array_equal(decision.action, expected)
    np.testing.assert_allclose(decision.log_prob, log_prob, rtol=1e-4, atol=1e-5)


def test_what_it_offers_acts_and_nothing_is_loaded_here(
    store: LocalPolicyStore, scouted: Scouted, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    monkeypatch.setattr(agent._loader, "_load_version", lambda *_: pytest.fail("loaded by the actor itself"))
    for seed in range(1, 8):
        manifest = publish_seed(store, seed, onnx=True)
        assert agent.wait_for_version(manifest.version, 20.0)
        assert agent.adopt().digest == manifest.digest
        _adopts(agent, manifest.version, seed)
    assert agent._manager.engines_alive() <= 3
    assert agent.adoptions == 8


def test_whatever_is_corrupted_is_quarantined_by_the_actor_itself(
    store: LocalPolicyStore, scouted: Scouted, lines: list[str]
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    process = _process(agent)
    for seed, (name, reason) in enumerate(
        {
            "a bit flipped in the weights": "DigestMismatch",
            "a bit flipped in the probe": "DigestMismatch",
            "empty manifest": "not a manifest",
            "weights that are NaN": "not finite",
            "weights of wrong names": "WeightsError",
            "a probe with wrong outputs": "ProbeMismatch",
        }.items()
    ):
        bad = publish_corrupted(store, CORRUPTIONS[name], seed=90, onnx=True)
        until(lambda bad=bad: (agent.adopt(), [line for line in lines if f"version {bad} is quarantined" in line])[1])
        (said,) = [line for line in lines if f"version {bad} is quarantined" in line]
        assert reason in said
        good = publish_seed(store, seed + 1, onnx=True)
        _adopts(agent, good.version, seed + 1)
    assert _process(agent) == process
    assert process.is_running()


def test_a_version_that_lost_a_file_is_tried_again(store: LocalPolicyStore, scouted: Scouted, lines: list[str]) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    bad = publish_corrupted(store, CORRUPTIONS["missing weights"], seed=1, onnx=True)
    until(lambda: (agent.adopt(), [line for line in lines if f"version {bad} will be tried again" in line])[1])
    weights = exporter(onnx=True).files(make_policy(seed=1).state_dict())[0]["weights.safetensors"]
    (store.path / version_name(bad) / "weights.safetensors").write_bytes(weights)
    _adopts(agent, bad, seed=1)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_without_it_the_actor_sees_to_everything(
    store: LocalPolicyStore, scouted: Scouted, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetcher, "LATE_S", 0.1)
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    process = _process(agent)
    process.send_signal(number)
    _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
    until(lambda: not agent.is_prefetching)
    until(lambda: not process.is_running())
    _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)


@pytest.mark.slow
def test_another_program_is_loaded_here_and_gets_a_scout_of_its_own(
    store: LocalPolicyStore, scouted: Scouted, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted(values=True)
    first = _process(agent)
    other = publish_seed(store, 0, onnx=True, network="lstm")
    until(lambda: agent.adopt().version == other.version)
    until(lambda: not first.is_running())
    until(lambda: agent.is_prefetching)
    monkeypatch.setattr(agent._loader, "_load_version", lambda *_: pytest.fail("loaded by the actor itself"))
    newest = publish_seed(store, 1, onnx=True, network="lstm")
    until(lambda: agent.adopt().version == newest.version)
    agent.act(OBSERVATIONS)


def test_where_nothing_comes_any_more_it_ends_and_has_to_become_worth_it_again(
    store: LocalPolicyStore, scouted: Scouted, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    process = _process(agent)
    monkeypatch.setattr(prefetcher, "WORTH_S", 1e9)
    monkeypatch.setattr(prefetcher, "IDLE_S", 0.0)
    until(lambda: not agent.is_prefetching)
    until(lambda: not process.is_running())
    until(lambda: (agent.adopt(), [line for line in lines if "nothing new has come" in line])[1])
    _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
    assert not agent.is_prefetching


def test_with_keys_nothing_else_is_offered(store: LocalPolicyStore, scouted: Scouted, lines: list[str]) -> None:
    made_by = exporter(onnx=True)
    publish(store, make_policy(), made_by, sign=KEY.sign)
    agent = scouted(trust=TrustOptions(public_keys=[KEY.public]))
    for seed, wrong in enumerate(({}, {"sign": OTHER_KEY.sign}, {"sign": KEY.sign, "run_id": "another"}), start=1):
        bad = publish(store, make_policy(seed=90), made_by, **wrong).version
        until(lambda bad=bad: (agent.adopt(), [line for line in lines if f"version {bad} is quarantined" in line])[1])
        _adopts(agent, publish(store, make_policy(seed=seed), made_by, sign=KEY.sign).version, seed)


def test_a_content_that_failed_while_it_acted_is_not_taken_again(
    store: LocalPolicyStore, scouted: Scouted, lines: list[str]
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    bad = publish_seed(store, 1, onnx=True)
    _adopts(agent, bad.version, seed=1)
    agent._run = lambda _: [np.full(3, 99), np.zeros(3, np.float32)]
    agent.decide([OBSERVATIONS])
    assert agent.policy.version < bad.version
    again = publish_seed(store, 1, onnx=True)
    assert again.digest == bad.digest
    until(lambda: (agent.adopt(), [line for line in lines if f"version {again.version} " in line])[1])
    assert agent.policy.version < bad.version
    _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)


def test_with_nothing_left_to_act_with_the_next_good_one_acts(
    store: LocalPolicyStore, scouted: Scouted, lines: list[str]
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    agent._run = lambda _: [np.full(3, 99), np.zeros(3, np.float32)]
    deciding = Running(agent.decide, [OBSERVATIONS])
    until(lambda: [line for line in lines if "is quarantined, it answered with" in line])
    good = publish_seed(store, 1, onnx=True)
    deciding.join()
    assert agent.policy.version == good.version
    _adopts(agent, good.version, seed=1)


def test_a_store_that_goes_and_comes_again(store: LocalPolicyStore, scouted: Scouted) -> None:
    publish_seed(store, 0, onnx=True)
    agent = scouted()
    shutil.rmtree(store.path)
    agent.act(OBSERVATIONS)
    fresh = local_store(store.path)
    for seed in (0, 3):
        newest = publish_seed(fresh, seed, onnx=True)
    _adopts(agent, newest.version, seed=3)


def test_a_scout_that_cannot_be_started_is_done_without(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetcher, "WORTH_S", 0.0)
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        agent.reset()
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
        _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)


_ACTOR = """
import sys
from pathlib import Path
import numpy as np
from actor.prefetch import prefetcher
from actor.agent import Agent
from shared.store.policy_store import LocalPolicyStore
from tests.support.waiting import Running, until

prefetcher.WORTH_S = 0.0
agent = Agent(LocalPolicyStore(Path(sys.argv[1])))
agent.reset()
until(lambda: agent.is_prefetching)
print(agent._loader._prefetcher._run._process.pid, flush=True)
if sys.argv[2] == "closes":
    agent.close()
if sys.argv[2] == "acts":
    while True:
        agent.act(np.zeros(4, np.float32))
"""


@pytest.mark.parametrize("end", [*(pytest.param(end, marks=pytest.mark.slow) for end in ("closes", "ends")), "acts"])
def test_it_ends_with_its_actor(store: LocalPolicyStore, end: str) -> None:
    publish_seed(store, 0, onnx=True)
    command = [sys.executable, "-c", _ACTOR, str(store.path), end]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        process = psutil.Process(int(actor.stdout.readline()))
        if end == "acts":
            actor.kill()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_short_runs_start_none(store: LocalPolicyStore) -> None:
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        agent.reset()
        for seed in range(1, 6):
            _adopts(agent, publish_seed(store, seed, onnx=True).version, seed)
        assert not agent.is_prefetching


def test_who_waits_for_each_version_starts_none(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads take nothing from acting there."""
    monkeypatch.setattr(prefetcher, "WORTH_S", 1e-9)
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        agent.reset()
        for version in range(1, 4):
            waiting = Running(agent.wait_for_version, version, 20.0)
            until(lambda: agent._loader._is_waited_for)
            publish_seed(store, version, onnx=True)
            assert waiting.join()
            _adopts(agent, version, seed=version)
        assert agent._loader._prefetcher is not None
        assert agent._loader._prefetcher._spent_s == 0.0
        publish_seed(store, 4, onnx=True)
        _adopts(agent, 4, seed=4)
        until(lambda: agent._loader._prefetcher._spent_s > 0.0)  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{"follow": "history:0.5"}, {"synchronous": True}, {"canary": 0.5}])
def test_where_versions_come_otherwise_there_is_none(store: LocalPolicyStore, settings: dict[str, Any]) -> None:
    with Agent(store, AgentOptions(num_envs=3, **settings)) as agent:
        assert agent._loader._prefetcher is None
