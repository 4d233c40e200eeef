"""An agent with a prefetcher acts as it would without one, whatever is published and whatever happens to it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.prefetch import prefetcher
from actor.prefetch.prefetcher import Prefetcher
from actor.sandbox.side_process import SideProcess
from actor.versions.version_loading import VersionLoader
from scripts.fault_injection.corrupted_versions import CORRUPTIONS
from shared.store.policy_store import LocalPolicyStore, version_name
from tests.support.agent_policies import eager, exporter, local_store, make_policy, publish, publish_seed, quiet_noise
from tests.support.bad_versions import publish_corrupted
from tests.support.captured_logs import CapturedLogs
from tests.support.paths import REPOSITORY
from tests.support.signature_attacks import KEY, OTHER_KEY
from tests.support.waiting import Running, until

OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
MakeAgent = Callable[..., Agent]
Processes = list[psutil.Process]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """The prefetcher processes, in the order of their starts."""
    started: Processes = []

    class Recorded(SideProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(psutil.Process(self.pid))

    monkeypatch.setattr(prefetcher, "SideProcess", Recorded)
    return started


@pytest.fixture
def make_prefetched(processes: Processes, monkeypatch: pytest.MonkeyPatch, make_agent: MakeAgent) -> MakeAgent:
    """Makes an agent that acts with the newest version and whose prefetcher is active."""
    monkeypatch.setattr(prefetcher, "WORTH_S", 0.0)

    def make(**options: Any) -> Agent:
        agent = make_agent(**({"synchronous": False, "deadline_s": 20.0, "values": False} | options))
        agent.reset()
        assert agent.policy.engine_name == "llvm"
        until(lambda: agent.is_prefetching and agent._loader.watcher.is_delegated)
        return agent

    return make


@pytest.fixture
def agent(store: LocalPolicyStore, make_prefetched: MakeAgent) -> Agent:
    publish_seed(store, 0, onnx=True)
    return make_prefetched()


def _until_logged(agent: Agent, captured_logs: CapturedLogs, text: str) -> list[str]:
    """Adopt until the log has lines with ``text``, and return them."""
    until(lambda: (agent.adopt(), captured_logs.lines_with(text))[1])
    return captured_logs.lines_with(text)


def _adopts(agent: Agent, version: int, seed: int) -> None:
    """Adopt ``version``, which acts as the policy of ``seed``."""
    until(lambda: agent.adopt().version >= version)
    assert agent.policy.version == version
    policy = make_policy(seed=seed)
    (expected, log_prob, _) = eager(policy, OBSERVATIONS, quiet_noise(policy, 3))
    decision = agent.decide([OBSERVATIONS])
    np.testing.assert_array_equal(decision.action, expected)
    np.testing.assert_allclose(decision.log_prob, log_prob, rtol=1e-4, atol=1e-5)


def test_versions_of_the_prefetcher_act_and_the_actor_loads_none(
    store: LocalPolicyStore, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VersionLoader, "load", lambda *_: pytest.fail("loaded by the actor itself"))
    for seed in range(1, 8):
        manifest = publish_seed(store, seed, onnx=True)
        assert agent.wait_for_version(manifest.version, 20.0)
        assert agent.adopt().digest == manifest.digest
        _adopts(agent, manifest.version, seed)
    assert agent._manager.engines_alive() <= 3
    assert agent.adoptions == 8


def test_paths_need_not_be_utf_8(tmp_path: Path, make_prefetched: MakeAgent, captured_logs: CapturedLogs) -> None:
    directory = tmp_path / os.fsdecode(b"st\xffre")
    store = local_store(directory / "policies")
    publish_seed(store, 0, onnx=True)
    agent = make_prefetched(store=store, cache_directory=directory / "cache")
    for seed in range(1, 3):
        _adopts(agent, publish_seed(store, seed, onnx=True).version, seed)
    assert captured_logs.messages("WARNING") == []


def test_a_corrupted_version_is_quarantined_by_the_actor(
    store: LocalPolicyStore, processes: Processes, captured_logs: CapturedLogs, agent: Agent
) -> None:
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
        (said,) = _until_logged(agent, captured_logs, f"version {bad} quarantined")
        assert reason in said
        good = publish_seed(store, seed + 1, onnx=True)
        _adopts(agent, good.version, seed + 1)
    (process,) = processes
    assert process.is_running()


def test_a_version_without_a_file_is_retried(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    bad = publish_corrupted(store, CORRUPTIONS["missing weights"], seed=1, onnx=True)
    _until_logged(agent, captured_logs, f"version {bad} will be retried")
    weights = exporter(onnx=True).files(make_policy(seed=1).state_dict())[0]["weights.safetensors"]
    (store.path / version_name(bad) / "weights.safetensors").write_bytes(weights)
    _adopts(agent, bad, seed=1)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_without_a_prefetcher_the_actor_loads_everything(
    store: LocalPolicyStore, agent: Agent, processes: Processes, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetcher, "LATE_S", 0.1)
    (process,) = processes
    process.send_signal(number)
    _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
    until(lambda: not agent.is_prefetching)
    until(lambda: not process.is_running())
    _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)


@pytest.mark.slow
def test_another_program_is_loaded_by_the_actor_and_gets_a_new_prefetcher(
    store: LocalPolicyStore, make_prefetched: MakeAgent, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_seed(store, 0, onnx=True)
    agent = make_prefetched(values=True)
    other = publish_seed(store, 0, onnx=True, network="lstm")
    until(lambda: agent.adopt().version == other.version)
    until(lambda: not processes[0].is_running())
    until(lambda: agent.is_prefetching)
    monkeypatch.setattr(VersionLoader, "load", lambda *_: pytest.fail("loaded by the actor itself"))
    newest = publish_seed(store, 1, onnx=True, network="lstm")
    until(lambda: agent.adopt().version == newest.version)
    agent.act(OBSERVATIONS)


def test_an_idle_prefetcher_ends_and_has_to_pay_off_again(
    store: LocalPolicyStore,
    agent: Agent,
    processes: Processes,
    captured_logs: CapturedLogs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (process,) = processes
    monkeypatch.setattr(prefetcher, "WORTH_S", 1e9)
    monkeypatch.setattr(prefetcher, "IDLE_S", 0.0)
    until(lambda: not agent.is_prefetching)
    until(lambda: not process.is_running())
    _until_logged(agent, captured_logs, "prefetcher stopped reason=no new version")
    _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
    assert not agent.is_prefetching


def test_with_keys_no_other_version_is_offered(
    store: LocalPolicyStore, make_prefetched: MakeAgent, captured_logs: CapturedLogs
) -> None:
    made_by = exporter(onnx=True)
    publish(store, make_policy(), made_by, sign=KEY.sign)
    agent = make_prefetched(trust=TrustOptions(public_keys=[KEY.public]))
    for seed, wrong in enumerate(({}, {"sign": OTHER_KEY.sign}, {"sign": KEY.sign, "run_id": "another"}), start=1):
        bad = publish(store, make_policy(seed=90), made_by, **wrong).version
        _until_logged(agent, captured_logs, f"version {bad} quarantined")
        _adopts(agent, publish(store, make_policy(seed=seed), made_by, sign=KEY.sign).version, seed)


def test_a_content_that_failed_while_acting_is_not_taken_again(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    bad = publish_seed(store, 1, onnx=True)
    _adopts(agent, bad.version, seed=1)
    agent._run = lambda _: [np.full(3, 99), np.zeros(3, np.float32)]
    agent.decide([OBSERVATIONS])
    assert agent.policy.version < bad.version
    again = publish_seed(store, 1, onnx=True)
    assert again.digest == bad.digest
    _until_logged(agent, captured_logs, f"version {again.version} ")
    assert agent.policy.version < bad.version
    _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)


def test_the_next_good_version_acts_if_none_is_left(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    agent._run = lambda _: [np.full(3, 99), np.zeros(3, np.float32)]
    deciding = Running(agent.decide, [OBSERVATIONS])
    until(lambda: captured_logs.lines_with("quarantined reason"))
    good = publish_seed(store, 1, onnx=True)
    deciding.join()
    assert agent.policy.version == good.version
    _adopts(agent, good.version, seed=1)


def test_a_store_that_is_removed_and_made_again(store: LocalPolicyStore, agent: Agent) -> None:
    shutil.rmtree(store.path)
    agent.act(OBSERVATIONS)
    fresh = local_store(store.path)
    for seed in (0, 3):
        newest = publish_seed(fresh, seed, onnx=True)
    _adopts(agent, newest.version, seed=3)


def test_an_actor_goes_on_without_a_prefetcher_that_does_not_start(
    store: LocalPolicyStore, captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetcher, "WORTH_S", 1e-9)
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        agent.reset()
        _adopts(agent, publish_seed(store, 1, onnx=True).version, seed=1)
        assert "/nowhere/python" in _until_logged(agent, captured_logs, "prefetcher not started")[0]
        _adopts(agent, publish_seed(store, 2, onnx=True).version, seed=2)
        assert not agent.is_prefetching


_ACTOR = """
import sys
from pathlib import Path
import numpy as np
import psutil
from actor.prefetch import prefetcher
from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore
from tests.support.waiting import Running, until

prefetcher.WORTH_S = 0.0
agent = Agent(LocalPolicyStore(Path(sys.argv[1])), AgentOptions(sandbox=None))
agent.reset()
until(lambda: agent.is_prefetching)
(process,) = psutil.Process().children()
print(process.pid, flush=True)
if sys.argv[2] == "closes":
    agent.close()
if sys.argv[2] == "acts":
    while True:
        agent.act(np.zeros(4, np.float32))
"""


@pytest.mark.parametrize("end", [*(pytest.param(end, marks=pytest.mark.slow) for end in ("closes", "ends")), "acts"])
def test_the_prefetcher_ends_with_its_actor(store: LocalPolicyStore, end: str) -> None:
    publish_seed(store, 0, onnx=True)
    command = [sys.executable, "-c", _ACTOR, str(store.path), end]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        process = psutil.Process(int(actor.stdout.readline()))
        if end == "acts":
            actor.kill()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_a_short_run_starts_no_prefetcher(store: LocalPolicyStore) -> None:
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        agent.reset()
        for seed in range(1, 6):
            _adopts(agent, publish_seed(store, seed, onnx=True).version, seed)
        assert not agent.is_prefetching


def test_loads_that_the_caller_waits_for_do_not_count(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take nothing from acting."""
    counted: list[float] = []
    monkeypatch.setattr(Prefetcher, "loaded", lambda _, load_s: counted.append(load_s))
    publish_seed(store, 0, onnx=True)
    with Agent(store, AgentOptions(num_envs=3, deterministic=True)) as agent:
        agent.reset()
        for version in range(1, 4):
            waiting = Running(agent.wait_for_version, version, 20.0)
            until(lambda: agent._loader.is_waited_for)
            publish_seed(store, version, onnx=True)
            assert waiting.join()
            _adopts(agent, version, seed=version)
        assert set(counted[1:]) == {0.0}
        publish_seed(store, 4, onnx=True)
        _adopts(agent, 4, seed=4)
        assert counted[-1] > 0.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"prefetch": False}, 0),
        ({"follow": "history:0.5"}, 0),
        ({"synchronous": True}, 0),
        ({"canary": 0.5}, 0),
    ],
)
def test_only_an_agent_that_follows_the_newest_version_makes_a_prefetcher(
    store: LocalPolicyStore, options: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Prefetcher] = []

    class Recorded(Prefetcher):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(prefetcher, "Prefetcher", Recorded)
    with Agent(store, AgentOptions(num_envs=3, **options)):
        assert len(made) == expected


def test_the_log_has_a_line_for_its_start_and_one_for_its_stop(
    store: LocalPolicyStore, captured_logs: CapturedLogs, agent: Agent
) -> None:
    agent.close()
    agent.close()
    assert [line.partition(" - ")[2] for line in captured_logs.lines if "prefetcher" in line] == [
        "prefetcher started",
        "prefetcher stopped reason=agent closed",
    ]
