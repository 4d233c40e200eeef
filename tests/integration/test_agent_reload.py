"""Policies are replaced while an agent acts: real files, events, threads and processes."""

import subprocess
import sys

import numpy as np
import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.engines.engine import EngineChoice
from shared.policy.noise import NoiseStream
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import eager, make_policy, publish_seed
from tests.support.paths import REPOSITORY
from tests.support.waiting import PATIENCE_S, Running, until

ROWS = 3


@pytest.mark.parametrize("engine", ["torchscript", "onnx", "llvm"])
def test_every_action_comes_from_the_version_that_it_is_stamped_with(
    store: LocalPolicyStore, engine: EngineChoice
) -> None:
    """Versions come faster than adoptions. Actions are computed again from the recorded version and noise."""
    n_versions = 30
    manifests = {0: publish_seed(store, 0, onnx=True)}
    with Agent(store, AgentOptions(num_envs=ROWS, engine=engine, seed=5, values=True)) as agent:
        agent.reset()
        publishing = Running(
            lambda: manifests.update({v: publish_seed(store, v, onnx=True) for v in range(1, n_versions)})
        )
        generator = np.random.default_rng(0)
        acted = []
        while agent.policy.version < n_versions - 1:
            if publishing.done:
                publishing.join()
            policy = agent.adopt()
            for _ in range(4):
                observation = generator.standard_normal((ROWS, 4)).astype(np.float32)
                offset = agent.noise_offset
                acted.append((policy.version, policy.digest, offset, observation, agent.decide([observation])))
        assert agent.policy.engine_name == engine
        assert agent._manager.engines_alive() == 3
        assert agent.adoptions > 3
    stream = NoiseStream(make_policy().signature.action, ROWS, agent.noise_seed)
    policies = {version: make_policy(seed=version) for version in range(n_versions)}
    fresh = [i for i in range(1, len(acted)) if acted[i][0] != acted[i - 1][0]]
    for i in sorted({*fresh, *range(0, len(acted), max(1, len(acted) // 1000))}):
        version, digest, offset, observation, decision = acted[i]
        expected = eager(policies[version], observation, stream.at(offset))
        np.testing.assert_allclose(decision.value, expected[2], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(decision.action, expected[0])
        assert digest == manifests[version].digest


_ACTOR = """
import sys
from pathlib import Path
import numpy as np
from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore

last = int(sys.argv[2])
with Agent(LocalPolicyStore(Path(sys.argv[1])), AgentOptions(engine=sys.argv[3], sandbox=None)) as agent:
    agent.reset()
    print("acts", flush=True)
    while agent.policy.version < last:
        agent.adopt()
        agent.act(np.zeros(4, np.float32))
    print(agent.policy.engine_name, *sorted({"onnxruntime", "torch"} & sys.modules.keys()), flush=True)
"""


@pytest.mark.parametrize(("engine", "said"), [("auto", "llvm\n"), ("onnx", "onnx onnxruntime\n")])
def test_an_actor_follows_another_process_and_imports_no_library_but_its_engines(
    store: LocalPolicyStore, engine: EngineChoice, said: str
) -> None:
    publish_seed(store, 0, onnx=True)
    actor = subprocess.Popen(
        [sys.executable, "-c", _ACTOR, str(store.path), "3", engine],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert actor.stdout is not None
        assert actor.stdout.readline() == "acts\n"
        for seed in range(1, 4):
            publish_seed(store, seed, onnx=True)
        assert actor.communicate(timeout=PATIENCE_S)[0] == said
        assert actor.returncode == 0
    finally:
        actor.kill()
        actor.wait()


def test_actors_that_wait_for_a_first_version_begin_when_it_comes(store: LocalPolicyStore) -> None:
    agents = [Agent(store, AgentOptions(name=f"actor-{i}")) for i in range(3)]
    waiting = [Running(agent.reset) for agent in agents]
    publish_seed(store, 0)
    for agent, reset in zip(agents, waiting, strict=True):
        reset.join()
        assert agent.policy.version == 0
        agent.close()


def test_a_version_without_an_event_is_found_by_polling(store: LocalPolicyStore) -> None:
    """Events can get lost, and some file systems have none."""
    publish_seed(store, 0)
    with Agent(store) as agent:
        agent.reset()
        agent._loader.watcher.stop()
        publish_seed(store, 1)
        until(lambda: agent.adopt().version == 1)
